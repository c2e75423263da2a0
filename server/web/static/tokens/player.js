// The slider over the checkpoints: moved by hand, by keys, or by itself. Space plays and pauses, wherever the focus is
// on nothing that takes it.
//
//   const player = new Player(byId("player"), { onIndex: async (index, direction) => …, isReady: (index) => … });
//   player.setSteps(steps, index); player.index; player.toggle()

import { byId, element } from "../core/dom.js";
import { whole } from "../core/format.js";

const SPEEDS = [["2", "2 a second"], ["5", "5 a second"], ["10", "10 a second"], ["20", "20 a second"], ["40", "40 a second"]];
const TAKES_SPACE = "button, select, textarea, summary, a, input:not([type=range])";

export class Player {
  #timer = null;

  constructor(place, { onIndex, isReady, speed, onSpeed }) {
    Object.assign(this, { place, onIndex, isReady, steps: [], index: 0 });
    this.button = element("button", { type: "button", class: "main", id: "play", onclick: () => this.toggle() }, "▶ Play");
    this.slider = element("input", { type: "range", id: "step", min: "0", max: "0", step: "1", "aria-label": "Checkpoint", oninput: () => this.go(Number(this.slider.value)) });
    this.output = element("output", { id: "step-words", for: "step" });
    this.speed = element("select", { id: "speed", "aria-label": "Speed", onchange: () => onSpeed(this.speed.value) }, SPEEDS.map(([value, words]) => element("option", { value, selected: value === speed }, words)));
    place.replaceChildren(this.button, this.slider, this.output, this.speed);
    document.addEventListener("keydown", (event) => {
      if (event.key !== " " || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.(TAKES_SPACE)) return;
      event.preventDefault();
      this.toggle();
    });
  }

  setSteps(steps, index) {
    this.steps = steps;
    this.slider.max = String(Math.max(steps.length - 1, 0));
    this.#show(Math.min(Math.max(index, 0), Math.max(steps.length - 1, 0)));
  }

  go(index) {
    if (!this.steps.length) return;
    const next = Math.min(Math.max(index, 0), this.steps.length - 1);
    const direction = next < this.index ? -1 : 1;
    this.#show(next);
    this.onIndex(next, direction);
  }

  get isPlaying() {
    return this.#timer !== null;
  }

  toggle() {
    if (this.isPlaying) {
      this.stop();
      return;
    }
    if (this.index >= this.steps.length - 1) this.go(0);
    this.button.textContent = "⏸ Pause";
    let due = performance.now();
    const tick = (now) => {
      if (now >= due && this.isReady(this.index + 1)) {
        due = Math.max(due + 1_000 / Number(this.speed.value), now - 100);
        this.go(this.index + 1);
      }
      if (this.index >= this.steps.length - 1) this.stop();
      else this.#timer = requestAnimationFrame(tick);
    };
    this.#timer = requestAnimationFrame(tick);
  }

  stop() {
    cancelAnimationFrame(this.#timer);
    this.#timer = null;
    this.button.textContent = "▶ Play";
    byId("said").textContent = this.steps.length ? `step ${this.steps[this.index]}` : "";
  }

  #show(index) {
    this.index = index;
    this.slider.value = String(index);
    const words = this.steps.length ? `step ${whole(this.steps[index])}` : "no checkpoint yet";
    this.slider.setAttribute("aria-valuetext", words);
    this.output.textContent = this.steps.length ? `${words} · ${index + 1} of ${whole(this.steps.length)}` : words;
  }
}
