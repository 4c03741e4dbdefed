// What is typed as the number of latent frames per chunk.

import assert from "node:assert/strict";
import test from "node:test";

import { wholeNumber } from "../../../assets/page/chunk_field.js";

test("a whole number in the range is taken", () => {
  const range = { min: "1", max: "16" };
  const typed = ["2.5", "3", "0", "-4", "99", "", "x"];
  assert.deepEqual(
    typed.map((text) => wholeNumber(text, range)),
    [3, 3, 1, 1, 16, 1, 1],
  );
});
