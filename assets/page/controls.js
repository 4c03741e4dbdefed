// Controls: the parts of the page outside the player that show how the server is.

const HEALTH = {
  ready: "ready",
  busy: "busy",
  broken: "restarting",
  lost: "no connection",
  silent: "no answer",
};

/** The badge in the header, and the buttons Run and Stop. Gradio may draw them anew at any time. */
export class Controls {
  /** Show the server's health: one of HEALTH's names. */
  showHealth(state) {
    const badge = document.getElementById("health");
    if (!badge) return;
    badge.dataset.state = state;
    badge.lastElementChild.textContent = HEALTH[state] ?? state;
  }

  /** Say which buttons can be pressed. The focus does not get lost when the button that has it cannot. */
  enable({ run, stop }) {
    const runButton = document.getElementById("run");
    const stopButton = document.getElementById("stop");
    if (!runButton || !stopButton) return;
    const focused = document.activeElement;
    runButton.disabled = !run;
    stopButton.disabled = !stop;
    if (focused === runButton && !run) document.querySelector(".stage")?.focus({ preventScroll: true });
    if (focused === stopButton && !stop) runButton.focus({ preventScroll: true });
  }
}
