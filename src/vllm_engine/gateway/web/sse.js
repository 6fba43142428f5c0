// Server-sent events (WHATWG HTML, section 9.2): blocks of lines; comments keep the connection alive and say nothing.

export class EventReader {
  #rest = "";
  #data = [];

  /** Take a piece of text, however it was cut; returns the data of the events that it completes. */
  push(text) {
    const events = [];
    this.#rest += text;
    let start = 0;
    let end;
    while ((end = this.#lineEnd(start)) !== -1) {
      this.#line(this.#rest.slice(start, end), events);
      start = end + (this.#rest.startsWith("\r\n", end) ? 2 : 1);
    }
    this.#rest = this.#rest.slice(start);
    return events;
  }

  #lineEnd(from) {
    for (let at = from; at < this.#rest.length; at++) {
      const letter = this.#rest[at];
      if (letter === "\n") return at;
      // A carriage return at the very end may be the first half of a line end.
      if (letter === "\r" && at + 1 < this.#rest.length) return at;
    }
    return -1;
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
