// The files that a latent can be downloaded as.

import assert from "node:assert/strict";
import test from "node:test";

import { latentFile } from "../../../assets/page/latent_format.js";

test("a format has a file's name and a query", () => {
  assert.deepEqual(latentFile("clip", ""), { name: "clip-latent.safetensors", query: "" });
  assert.deepEqual(latentFile("clip", "Raw"), { name: "clip-latent-raw.safetensors", query: "?format=Raw" });
  assert.deepEqual(latentFile("clip", "ComfyUI normalised"), {
    name: "clip-latent-normalised.latent",
    query: "?format=ComfyUI%20normalised",
  });
});
