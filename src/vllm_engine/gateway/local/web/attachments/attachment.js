// An attachment: a text file, or an image as a data URL that this browser made. It is part of its message.

import { fenced } from "../lib/fence.js";
import { bytes } from "../lib/format.js";

/** Bounds: bytes of a text file and of an image file, pixels of an image's longer side as it is sent, and how many. */
export const MOST = { text: 200_000, image: 25_000_000, side: 1536, count: 8, name: 200 };

const IMAGE_URL = /^data:image\/(?:jpeg|png|webp|gif);base64,[A-Za-z0-9+/]+={0,2}$/;
const LONGEST_URL = 8_000_000;

/** Why a file cannot be attached, for people. */
export class AttachError extends Error {}

/** Say whether something is an attachment: what is stored may come from an imported file. */
export function isAttachment(value) {
  if (typeof value?.name !== "string" || value.name.length > MOST.name) return false;
  if (value.kind === "text") return typeof value.text === "string" && value.text.length <= MOST.text;
  return value.kind === "image" && typeof value.url === "string" && value.url.length <= LONGEST_URL && IMAGE_URL.test(value.url);
}

/** Read a file; `takesImages` says whether the model takes images. Throws an AttachError. */
export async function readFile(file, { takesImages }) {
  const name = file.name.slice(-MOST.name);
  if (file.type.startsWith("image/") && file.type !== "image/svg+xml") {
    if (!takesImages) throw new AttachError(`${name}: this model takes no images.`);
    return { kind: "image", name, url: await imageUrl(file, name) };
  }
  if (file.size > MOST.text) throw new AttachError(`${name} has ${bytes(file.size)}; text files may have ${bytes(MOST.text)}.`);
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (!text.includes("\0")) return { kind: "text", name, text };
  } catch (error) {
    if (!(error instanceof TypeError)) throw new AttachError(`${name} cannot be read.`);
  }
  throw new AttachError(takesImages ? `${name} is neither text in UTF-8 nor an image.` : `${name} is not text in UTF-8.`);
}

/** Return an image as a JPEG of a bounded size: what a phone takes is many times what a model looks at. */
async function imageUrl(file, name) {
  if (file.size > MOST.image) throw new AttachError(`${name} has ${bytes(file.size)}; images may have ${bytes(MOST.image)}.`);
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new AttachError(`${name} cannot be read as an image.`);
  }
  const scale = Math.min(1, MOST.side / Math.max(image.width, image.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const context = canvas.getContext("2d");
  // A JPEG has no transparency: without a ground it would be black.
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  image.close();
  return canvas.toDataURL("image/jpeg", 0.9);
}

/** Return the content of a message with its attachments, as a request has it. */
export function withAttachments(content, attachments) {
  const fitting = attachments.filter(isAttachment);
  const texts = fitting.filter(({ kind }) => kind === "text")
    .map(({ name, text: held }) => `${name.replace(/\s/g, " ")}:\n\n${fenced(held.replace(/\n$/, ""), "`")}`);
  const text = [...texts, content].join("\n\n");
  const images = fitting.filter(({ kind }) => kind === "image");
  if (!images.length) return text;
  return [...images.map(({ url }) => ({ type: "image_url", image_url: { url } })), { type: "text", text }];
}
