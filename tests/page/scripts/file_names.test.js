// Files are called as the server calls them.

import assert from "node:assert/strict";
import test from "node:test";

import { asKept } from "../../../assets/page/file_names.js";

test("names", () => {
  const kept = [{ path: "/tmp/1/clip (1).pt", orig_name: "clip (1).pt" }];
  assert.equal(asKept(kept)[0], kept, "the same files, or Gradio would take them for new ones");
  assert.deepEqual(asKept([{ path: "/tmp/2/ab.pt", orig_name: "a<b>.pt", size: 1 }]), [
    [{ path: "/tmp/2/ab.pt", orig_name: "ab.pt", size: 1 }],
  ]);
  assert.deepEqual(asKept(null), [null]);
});
