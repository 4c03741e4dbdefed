// History: the list of the visitor's runs, those of earlier days included: open one, or delete it.

import { isActive, nameRun, tellAge, tellOutcome, tellProblem, tellSettings } from "./listed_run.js";
import { SafeStorage } from "./storage.js";

const FIRST = 12; // runs that are shown at first
const ANSWER_TIMEOUT = 8000; // milliseconds
const PAUSE = 10_000; // milliseconds between two questions
const SHORT_PAUSE = 1000; // the same while something goes on
const LIVELY = 5000; // milliseconds after an event in which more may happen
const CONFIRM = 4000; // milliseconds to press Delete again
const KEPT = "No runs yet. What you run is kept here, with all its frames, until you delete it.";
const NOT_KEPT = "No runs yet. The newest are listed here until the app is ended.";
const WATCHED_KEY = "wanvae-watched";

/** Start the list. Gradio calls it when the element is on the page. */
export function start({ element }) {
  new RunList(element).listen();
}

class RunList {
  #runs = []; // as last heard, newest first
  #items = new Map(); // list items by run id
  #watched = new Set(); // ids of runs that this tab has started and that have not ended
  #all = false; // whether more than FIRST are shown
  #present = null; // id of the run in the player
  #asking = false;
  #lastAsked = Number.NEGATIVE_INFINITY; // on performance.now's clock
  #lastEvent = Number.NEGATIVE_INFINITY;
  #session = new SafeStorage(() => sessionStorage);

  constructor(element) {
    element.innerHTML = `
      <section class="past" aria-label="Your runs">
        <h2 tabindex="-1">Your runs</h2>
        <p class="empty" hidden></p>
        <ul></ul>
        <button type="button" class="more" hidden></button>
        <p class="news" role="status"></p>
      </section>`;
    this.title = element.querySelector("h2");
    this.empty = element.querySelector(".empty");
    this.list = element.querySelector("ul");
    this.more = element.querySelector(".more");
    this.news = element.querySelector(".news");
  }

  listen() {
    for (const id of (this.#session.get(WATCHED_KEY) ?? "").split(",").filter(Boolean)) this.#watched.add(id);
    document.addEventListener("wanvae-beat", () => this.#beat());
    document.addEventListener("wanvae-start", ({ detail }) => {
      for (const id of detail) this.#watched.add(id);
      this.#hurry();
    });
    document.addEventListener("wanvae-follow", ({ detail }) => {
      this.#present = detail;
      this.#hurry();
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.#hurry(); // another tab may have deleted a run
    });
    this.more.addEventListener("click", () => {
      this.#all = !this.#all;
      this.#show();
    });
    this.list.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      const id = target.closest("li")?.dataset.id;
      if (button?.classList.contains("open")) window.wanvae.follow(id);
      if (button?.classList.contains("remove")) this.#remove(id, button);
    });
    this.#hurry();
  }

  #hurry() {
    this.#lastEvent = performance.now();
    this.#ask();
  }

  /** Ask if it is time to. Called ten times a second. */
  #beat() {
    const now = performance.now();
    const isLively = this.#watched.size || this.#runs.some(isActive) || now - this.#lastEvent < LIVELY;
    if (!isLively && document.hidden) return;
    if (now - this.#lastAsked >= (isLively ? SHORT_PAUSE : PAUSE)) this.#ask();
  }

  async #ask() {
    if (this.#asking) return;
    this.#asking = true;
    this.#lastAsked = performance.now();
    try {
      const response = await this.#fetch(`runs?seen=${[...this.#watched].join(",")}`);
      if (!response.ok) return;
      const { runs, kept } = await response.json();
      this.empty.textContent = kept ? KEPT : NOT_KEPT;
      this.#take(runs);
    } catch (error) {
      console.debug(error); // the player says that the server does not answer
    } finally {
      this.#asking = false;
    }
  }

  #take(runs) {
    this.#runs = runs;
    const going = new Set(runs.filter(isActive).map((run) => run.id));
    this.#watched = new Set([...this.#watched].filter((id) => going.has(id)));
    this.#session.set(WATCHED_KEY, [...this.#watched].join(","));
    this.#show();
  }

  #show() {
    const shown = this.#all ? this.#runs : this.#runs.slice(0, FIRST);
    const ids = new Set(shown.map((run) => run.id));
    for (const [id, item] of this.#items) {
      if (ids.has(id)) continue;
      item.remove();
      this.#items.delete(id);
    }
    shown.forEach((run, place) => {
      const item = this.#items.get(run.id) ?? this.#make(run);
      this.#fill(item, run);
      // Moving an item would take the focus from it.
      if (this.list.children[place] !== item) this.list.insertBefore(item, this.list.children[place] ?? null);
    });
    this.empty.hidden = this.#runs.length > 0;
    this.more.hidden = this.#runs.length <= FIRST;
    this.more.textContent = this.#all ? `Show the newest ${FIRST}` : `Show all ${this.#runs.length}`;
  }

  #make(run) {
    const item = document.createElement("li");
    item.dataset.id = run.id;
    item.innerHTML = `
      <button type="button" class="open">
        <span class="picture"></span>
        <span class="words"><b></b><span class="settings"></span><span class="outcome"></span></span>
      </button>
      <button type="button" class="remove"></button>
      <p class="problem" hidden></p>`;
    this.#items.set(run.id, item);
    return item;
  }

  #fill(item, run) {
    const set = (selector, text) => {
      const part = item.querySelector(selector);
      if (part.textContent !== text) part.textContent = text;
    };
    const open = item.querySelector(".open");
    const remove = item.querySelector(".remove");
    set("b", run.name);
    set(".settings", tellSettings(run));
    set(".outcome", `${tellOutcome(run)} · ${tellAge(run.created, Date.now() / 1000)}`);
    const problem = tellProblem(run);
    set(".problem", problem);
    item.querySelector(".problem").hidden = !problem;
    if (run.id === this.#present) open.setAttribute("aria-current", "true");
    else open.removeAttribute("aria-current");
    open.title = `Open ${nameRun(run)}`;
    if (!remove.dataset.sure) this.#label(remove, run, isActive(run) ? "Stop" : "Delete");
    const picture = item.querySelector(".picture");
    if (run.thumbnail && !picture.firstChild) {
      const image = picture.appendChild(new Image());
      image.alt = "";
      image.src = new URL(run.thumbnail, document.baseURI).href;
    }
  }

  #label(button, run, word) {
    if (button.textContent !== word) button.textContent = word;
    button.setAttribute("aria-label", `${word} ${nameRun(run)}`);
  }

  /** Stop a run that goes on. Delete one that has ended, when the button is pressed a second time. */
  async #remove(id, button) {
    const run = this.#runs.find((each) => each.id === id);
    if (run === undefined) return;
    try {
      if (isActive(run)) {
        await this.#fetch(`live/${id}/stop`, { method: "POST" });
        this.#hurry();
      } else if (!button.dataset.sure) {
        button.dataset.sure = "yes";
        this.#label(button, run, "Really delete");
        setTimeout(() => {
          delete button.dataset.sure;
          this.#label(button, run, "Delete");
        }, CONFIRM);
      } else {
        await this.#delete(run);
      }
    } catch (error) {
      console.debug(error);
      this.news.textContent = "The server does not answer: try again later.";
    }
  }

  async #delete(run) {
    const response = await this.#fetch(`runs/${run.id}`, { method: "DELETE" });
    if (!response.ok && response.status !== 404) {
      const { detail } = await response.json();
      this.news.textContent = detail;
      return;
    }
    document.dispatchEvent(new CustomEvent("wanvae-delete", { detail: run.id }));
    const item = this.#items.get(run.id);
    const next = (item?.nextElementSibling ?? item?.previousElementSibling)?.querySelector(".open");
    this.#take(this.#runs.filter((other) => other !== run));
    (next ?? this.title).focus();
    this.news.textContent = `Deleted ${nameRun(run)}.`;
  }

  #fetch(path, options) {
    const signal = AbortSignal.timeout(ANSWER_TIMEOUT);
    return fetch(new URL(path, document.baseURI), { cache: "no-store", ...options, signal });
  }
}
