// Evaluated in the page: shows a text piece by piece, and at once; says whether both look alike, and how many elements
// either has made.

async ({ text, sizes }) => {
  const { render } = await import(new URL("ui/chat/markdown.js", document.baseURI));
  const create = Document.prototype.createElement;
  let made = 0;
  Document.prototype.createElement = function (...given) {
    made += 1;
    return create.apply(this, given);
  };
  try {
    const [streamed, whole] = [document.createElement("div"), document.createElement("div")];
    made = 0;
    for (let at = 0, piece = 0; at < text.length; piece++) {
      at += sizes[piece % sizes.length];
      render(streamed, text.slice(0, at), { isWhole: false });
    }
    render(streamed, text);
    const inPieces = made;
    made = 0;
    render(whole, text);
    return { same: streamed.isEqualNode(whole), inPieces, atOnce: made };
  } finally {
    Document.prototype.createElement = create;
  }
}
