// Main: builds the player, and joins it to Gradio.

import { Controls } from "./controls.js";
import { startDrop } from "./drop.js";
import { Follower, JOB_KEY } from "./follow.js";
import { Panel } from "./panel.js";
import { Player } from "./player.js";
import { addressedRun, addressOf } from "./run_address.js";
import { Server } from "./server.js";
import { Stage } from "./stage.js";
import { SafeStorage } from "./storage.js";
import { startTheme } from "./theme.js";
import { Transport } from "./transport.js";

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
  const panel = new Panel(element, server);
  const player = new Player(new Stage(element), settings);
  new Transport(element, player);
  startTheme(document.getElementById("theme"), settings);
  startDrop();

  const onFollow = (job) => {
    history.replaceState(
      history.state,
      "",
      addressOf(location.hash, job) || location.pathname + location.search,
    );
    tell("follow", job);
  };
  const follower = new Follower({ server, panel, player, controls: new Controls(), session, onFollow });
  const followAddress = () => {
    const job = addressedRun(location.hash);
    if (job !== null && job !== follower.job) follower.follow(job, job !== session.get(JOB_KEY));
    return job;
  };
  if (followAddress() === null) follower.resume();
  addEventListener("hashchange", followAddress);
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
    tell("beat");
  });

  window.wanvae = {
    follow: (job) => follower.follow(job),
    stop: () => follower.stop(),
    player,
    // What is on the page, for tests.
    get state() {
      const { job, run, lost, reading, boot, active, settled } = follower;
      const { count, decoded, drawn, mode, playing, shown } = player;
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
        complete: decoded?.complete ?? false,
        status: element.querySelector(".status").textContent,
      };
    },
  };
}

/** Tell the list of runs, which is another component, what happens here. */
function tell(name, detail) {
  document.dispatchEvent(new CustomEvent(`wanvae-${name}`, { detail }));
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
