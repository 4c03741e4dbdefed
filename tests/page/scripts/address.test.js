// What is compared, in the page's address.

import assert from "node:assert/strict";
import test from "node:test";

import { formatAddress, parseAddress } from "../../../assets/page/address.js";
import { addressedRun, NO_RUN } from "../../../assets/page/run_address.js";

test("what is written is read again, and the rest stays", () => {
  const shown = { a: "x-1_Y", b: "x-1_Y.source", mode: "wipe", frame: 12 };
  const hash = formatAddress("#run=z", shown);
  assert.equal(hash, "#run=z&a=x-1_Y&b=x-1_Y.source&mode=wipe&frame=12");
  assert.deepEqual(parseAddress(hash), shown);
  assert.deepEqual(parseAddress(formatAddress(hash, { ...shown, b: null })).b, null);
  assert.equal(formatAddress(hash, {}), "#run=z");
  assert.equal(formatAddress("#a=x", {}), "");
});

test("what is no name of a clip is a run that is not there", () => {
  assert.deepEqual(parseAddress("#a=../health&b=x/y"), { a: NO_RUN, b: NO_RUN });
  assert.deepEqual(parseAddress(`#a=${"x".repeat(999)}`), { a: NO_RUN });
  for (const hash of ["#run=../../etc", `#run=${"a".repeat(65)}`]) assert.equal(addressedRun(hash), NO_RUN);
});

test("nothing else is believed", () => {
  assert.deepEqual(parseAddress("#a=&frame=-1"), {});
  assert.deepEqual(parseAddress("#frame=1e3"), {});
});
