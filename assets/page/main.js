// Main: builds the player, and joins it to Gradio.

import { AddressWriter, parseAddress } from "./address.js";
import { startChunkField } from "./chunk_field.js";
import { Comparison, parseClip } from "./comparison.js";
import { Controls } from "./controls.js";
import { Curve } from "./curve.js";
import { Difference } from "./difference.js";
import { startDrop } from "./drop.js";
import { ExactPictures } from "./exact.js";
import { Follower } from "./follow.js";
import { Gestures } from "./gestures.js";
import { Keys } from "./keys.js";
import { Panel } from "./panel.js";
import { Pickers } from "./pickers.js";
import { Player } from "./player.js";
import { addressedRun, addressOf } from "./run_address.js";
import { Saving } from "./saving.js";
import { Server } from "./server.js";
import { Stage } from "./stage.js";
import { SafeStorage } from "./storage.js";
import { startTheme } from "./theme.js";
import { Transport } from "./transport.js";
import { Values } from "./values.js";
import { ViewBar } from "./viewbar.js";

const BEAT = 100; // milliseconds

/**
 * Start the player. Gradio calls it when the element is on the page.
 *
 * @param {object} component
 * @param {HTMLElement} component.element holds what player.html says
 * @param {{value: string}} component.props value: the last message of the Run button's handler, as JSON
 * @param {(name: string, callback: () => void) => void} component.watch calls back when a prop has changed
 */
export function start({ element, props, watch }) {
  const settings = new SafeStorage(() => localStorage);
  const session = new SafeStorage(() => sessionStorage);
  const server = new Server(document.baseURI);
  const stage = new Stage(element);
  const player = new Player(stage, settings);
  const comparison = new Comparison(server, player);
  const panel = new Panel(element, server, comparison);
  const curve = startViewer(element, { server, player, comparison, settings, stage });
  startChunkField();
  startTheme(document.getElementById("theme"), settings);
  startDrop();

  const onFollow = (job) => {
    // From now on, A in the address names the run.
    const hash = addressOf(location.hash, null);
    if (hash !== location.hash)
      history.replaceState(history.state, "", hash || location.pathname + location.search);
    tell("follow", job);
  };
  const follower = new Follower({ server, panel, comparison, controls: new Controls(), session, onFollow });
  const open = () => {
    const wished = parseAddress(location.hash);
    if (wished.mode) player.chooseMode(wished.mode);
    comparison.wish(wished);
    return wished.a ? parseClip(wished.a).id : addressedRun(location.hash);
  };
  follower.resume(open());
  window.addEventListener("hashchange", () => {
    const job = open();
    if (job !== null) follower.resume(job);
  });
  document.addEventListener("wanvae-delete", ({ detail }) => follower.forget(detail));
  const hear = () => {
    if (!props.value) return;
    const message = JSON.parse(props.value);
    follower.hear(message);
    if (message.jobs) tell("start", message.jobs);
  };
  watch("value", hear);
  hear(); // Run may have been pressed while the modules were on their way
  onBeat(() => {
    follower.beat();
    curve.beat();
    tell("beat");
  });

  window.wanvae = {
    follow: (job) => follower.follow(job),
    stop: () => follower.stop(),
    player,
    comparison,
    // What is on the page, for tests.
    get state() {
      const { job, run, lost, reading, boot, active, settled } = follower;
      const { a, count, drawn, isExact, mode, playing, shown } = player;
      return {
        job,
        run,
        lost: Boolean(lost),
        reading,
        boot,
        active,
        settled,
        mode,
        playing,
        shown,
        received: count,
        drawn: drawn.size,
        complete: a?.complete ?? false,
        exact: isExact,
        a: comparison.a,
        b: comparison.b,
        status: element.querySelector(".status").textContent,
      };
    },
  };
}

/** Tell the list of runs, which is another component, what happens here. */
function tell(name, detail) {
  document.dispatchEvent(new CustomEvent(`wanvae-${name}`, { detail }));
}

/** Build everything that shows clips on the stage, and join it. Returns what wants a beat. */
function startViewer(element, parts) {
  const { server, player, comparison, stage } = parts;
  new Transport(element, player);
  new Gestures(stage);
  new Values(stage, player);
  new Pickers(element, parts);
  const viewBar = new ViewBar(element, parts);
  new Keys(element, { player, comparison, viewBar });
  const difference = new Difference(element, parts);
  new Saving(element, { server, player, comparison, difference });
  new AddressWriter(comparison, player);
  new ExactPictures(player, (frame) => {
    const { a, b } = comparison;
    if (a === null) return {};
    const exact = (name) => {
      const { id, isSource } = parseClip(name);
      return server.exactAddress(id, isSource, frame);
    };
    if (!player.b?.hasSoon(frame)) return { a: exact(a) };
    const both = { a: exact(a), b: exact(b) };
    return player.mode === "difference" ? { ...both, difference: difference.address(frame) } : both;
  });
  return new Curve(element, parts);
}

/**
 * Call back every BEAT, in a hidden tab as well.
 *
 * A worker's clock goes on there. The page's own is slowed to one beat a minute, so that the server would believe that
 * nobody is watching.
 */
function onBeat(callback) {
  const source = `setInterval(() => postMessage(0), ${BEAT})`;
  const clock = new Worker(URL.createObjectURL(new Blob([source])));
  clock.onmessage = callback;
}
