// Evaluated in the page: which of some texts cost more than in proportion to their length?

async ({ texts, length }) => {
  const { render } = await import(new URL("ui/chat/markdown.js", document.baseURI));
  const FACTOR = 4;
  // A step of 3 microseconds a character is not looked into: collecting garbage makes such short times uneven.
  const QUICK = length * FACTOR * 0.003;
  // Linear is 4, quadratic 16.
  const MOST = 10;
  const TRIES = 8;

  const make = ([before, unit, after], size) => before + unit.repeat(Math.ceil(size / unit.length)) + after;
  const timed = (text) => {
    const box = document.createElement("div");
    const began = performance.now();
    render(box, text);
    return performance.now() - began;
  };
  const slow = [];
  for (const text of texts) {
    const short = make(text, length);
    const long = make(text, length * FACTOR);
    let [least, most] = [Infinity, timed(long)];
    // The least of some tries: a busy machine adds to a time and never takes away.
    for (let left = TRIES; left && most > QUICK && (least === Infinity || most > MOST * least); left--) {
      least = Math.min(least, timed(short));
      if (most > MOST * least) most = Math.min(most, timed(long));
    }
    if (most > QUICK && most > MOST * least) slow.push({ text, least, most });
    await new Promise((done) => setTimeout(done));
  }
  return slow;
}
