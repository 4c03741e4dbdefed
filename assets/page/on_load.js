// Runs when Gradio has built one of our components, inside a function that it gives `element`, `props`, `watch` and
// `trigger`. A line behind it calls `load` with the name of the component's module.
function load(name) {
  import(new URL(`page/${name}`, document.baseURI).href)
    .then((module) => module.start({ element, props, watch, trigger }))
    .catch((error) => {
      console.error(error);
      const line = element.querySelector(".banner") ?? element.appendChild(document.createElement("p"));
      line.textContent = "This part of the page could not be started: reload the page to try again.";
      line.hidden = false;
    });
}
