// Server-sent events (WHATWG HTML, section 9.2): blocks of lines; comments only keep the connection alive.

export class EventReader {
  #pieces = [];
  #data = [];
  #wasReturn = false;

  /** Take a piece of text, cut anywhere; returns the data of the events that it completes. */
  push(text) {
    const events = [];
    let start = 0;
    for (const { 0: end, index } of text.matchAll(/\r\n|\n|\r/g)) {
      // The second half of a CRLF that was cut in two.
      if (!(index === 0 && end === "\n" && this.#wasReturn)) {
        this.#line(this.#pieces.join("") + text.slice(start, index), events);
        this.#pieces = [];
      }
      start = index + end.length;
    }
    if (start < text.length) this.#pieces.push(text.slice(start));
    if (text) this.#wasReturn = text.endsWith("\r");
    return events;
  }

  #line(line, events) {
    if (line === "") {
      if (this.#data.length) events.push(this.#data.join("\n"));
      this.#data = [];
    } else if (line.startsWith("data:")) {
      this.#data.push(line.slice(line[5] === " " ? 6 : 5));
    }
  }
}
