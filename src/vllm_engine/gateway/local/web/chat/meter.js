/** Measures one answer as seen by the browser, or what is added to one that has counts already. */
export class Meter {
  #before;
  #began = performance.now();
  #first = null;
  #last = null;
  #pieces = 0;
  #usage = null;

  constructor(before) {
    this.#before = before?.tokens ?? 0;
  }

  piece() {
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.#pieces += 1;
  }

  usage(usage) {
    this.#usage = usage;
  }

  result() {
    const tokens = this.#usage?.completion_tokens ?? this.#pieces;
    const seconds = (this.#last - this.#first) / 1000;
    return {
      tokens: this.#before + tokens,
      exact: this.#usage !== null,
      ttft: this.#first === null ? null : (this.#first - this.#began) / 1000,
      rate: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null,
      // Of the context: the prompt and the answer.
      total: this.#usage?.total_tokens ?? null,
    };
  }
}
