/** Measures one answer as seen by the browser. */
export class Meter {
  #began = performance.now();
  #first = null;
  #last = null;
  #pieces = 0;
  #tokens = null;

  piece() {
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.#pieces += 1;
  }

  usage(tokens) {
    this.#tokens = tokens;
  }

  result() {
    const tokens = this.#tokens ?? this.#pieces;
    const seconds = (this.#last - this.#first) / 1000;
    return {
      tokens,
      exact: this.#tokens !== null,
      ttft: this.#first === null ? null : (this.#first - this.#began) / 1000,
      rate: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null,
    };
  }
}
