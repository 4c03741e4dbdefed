// What is compared, in the page's address.

import assert from "node:assert/strict";
import test from "node:test";

import { formatAddress, parseAddress } from "../../../assets/page/address.js";

test("what is written is read again, and the rest stays", () => {
  const shown = { a: "x-1_Y", b: "x-1_Y.source", mode: "wipe", frame: 12 };
  const hash = formatAddress("#run=z", shown);
  assert.equal(hash, "#run=z&a=x-1_Y&b=x-1_Y.source&mode=wipe&frame=12");
  assert.deepEqual(parseAddress(hash), shown);
  assert.deepEqual(parseAddress(formatAddress(hash, { ...shown, b: null })).b, null);
  assert.equal(formatAddress(hash, {}), "#run=z");
  assert.equal(formatAddress("#a=x", {}), "");
});

test("nothing else is believed", () => {
  assert.deepEqual(parseAddress(""), {});
  assert.deepEqual(parseAddress("#a=../health&b=x/y&frame=-1"), {});
  assert.deepEqual(parseAddress(`#a=${"x".repeat(999)}&frame=1e3`), {});
});
