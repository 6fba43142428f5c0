// Scrolls along with an answer, unless its reader has scrolled up; then a button leads to the end.

const NEAR = 80;

export class Follower {
  #box;
  #button;
  #follows = true;

  constructor(box, button) {
    this.#box = box;
    this.#button = button;
    box.addEventListener("scroll", () => this.#look(), { passive: true });
    // As when a phone's keyboard comes up.
    new ResizeObserver(() => this.follow(() => {})).observe(box);
    button.addEventListener("click", () => {
      this.toEnd();
      box.focus({ preventScroll: true });
    });
  }

  toEnd() {
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#look();
  }

  /** Change what is shown and, if its end was in sight, keep it there. */
  follow(change) {
    change();
    if (this.#follows) this.toEnd();
    else this.#look();
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.#box;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR;
    this.#button.hidden = this.#follows;
  }
}
