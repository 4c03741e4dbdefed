// Web storage in browsers that allow, deny or lack it.

import assert from "node:assert/strict";
import test from "node:test";

import { SafeStorage } from "../../../assets/page/storage.js";

class FakeStorage extends Map {
  getItem = (key) => this.get(key) ?? null;
  setItem = (key, value) => this.set(key, String(value));
  removeItem = (key) => this.delete(key);
}

const DENIED = {
  "naming it throws": () => {
    throw new DOMException("denied", "SecurityError");
  },
  "there is none": () => null,
  "it is full": () => ({
    getItem: () => null,
    setItem: () => {
      throw new DOMException("full", "QuotaExceededError");
    },
    removeItem: () => {},
  }),
};

test("texts go to the browser's storage", () => {
  const browser = new FakeStorage();
  const storage = new SafeStorage(() => browser);
  assert.equal(storage.get("a"), null);
  storage.set("a", 1);
  assert.equal(browser.get("a"), "1");
  browser.set("a", "of another tab");
  assert.equal(storage.get("a"), "of another tab");
  storage.remove("a");
  assert.equal(browser.size, 0);
});

for (const [reason, open] of Object.entries(DENIED)) {
  test(`texts last as long as the page where ${reason}`, () => {
    const storage = new SafeStorage(open);
    assert.equal(storage.get("a"), null);
    storage.set("a", 1);
    assert.equal(storage.get("a"), "1");
    storage.remove("a");
    assert.equal(storage.get("a"), null);
  });
}

test("a storage that allows again is used again", () => {
  const browser = new FakeStorage();
  let allowed = false;
  const storage = new SafeStorage(() => (allowed ? browser : null));
  storage.set("a", "kept by the page");
  allowed = true;
  assert.equal(storage.get("a"), "kept by the page");
  storage.set("a", "kept by the browser");
  assert.equal(browser.get("a"), "kept by the browser");
  assert.equal(storage.get("a"), "kept by the browser");
});
