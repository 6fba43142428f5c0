// Scrolls along with an answer, unless its reader has scrolled up; then a button leads to the end.

const NEAR = 80;

export class Follower {
  #box;
  #button;

  constructor(box, button) {
    this.#box = box;
    this.#button = button;
    const look = () => (button.hidden = this.#isNear());
    box.addEventListener("scroll", look, { passive: true });
    new ResizeObserver(look).observe(box);
    button.addEventListener("click", () => {
      this.toEnd();
      box.focus({ preventScroll: true });
    });
  }

  toEnd() {
    this.#box.scrollTop = this.#box.scrollHeight;
  }

  /** Change what is shown and, if its end was in sight, keep it there. */
  follow(change) {
    const follows = this.#isNear();
    change();
    if (follows) this.toEnd();
    this.#button.hidden = this.#isNear();
  }

  #isNear() {
    const { scrollHeight, scrollTop, clientHeight } = this.#box;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }
}
