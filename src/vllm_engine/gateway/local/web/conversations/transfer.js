// Conversations as a file: what Export writes and Import takes.

import { saveJson } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { FormatError, MOST, checkRecord, newId, wrong } from "./record.js";

const FORMAT = "vllm-engine.conversations";
const VERSION = 1;
const MOST_BYTES = 100_000_000;

export function exportFile(records, name) {
  const conversations = records.map((record) => checkRecord(record, "conversation"));
  saveJson(name, { format: FORMAT, version: VERSION, exported: new Date().toISOString(), conversations }, 1);
}

/** Take in the conversations of a file, beside those that are there; returns what to say of it. */
export async function importFile(file, library) {
  try {
    const records = parse(file.size > MOST_BYTES ? tooLarge(file) : await file.text());
    let known = 0;
    for (const record of records) {
      const there = await library.get(record.id);
      if (there?.updated === record.updated && there.messages.length === record.messages.length) known += 1;
      else await library.save(there ? { ...record, id: newId() } : record);
    }
    const added = plural(records.length - known, "conversation");
    return `${added} imported${known ? `, ${known} already there` : ""}.`;
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    return `Nothing was imported: ${error.message}`;
  }
}

function parse(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new FormatError(`the file is not JSON (${error.message}).`);
  }
  if (value?.format !== FORMAT) throw wrong("format", value?.format, `${FORMAT}: a file that Export has written`);
  if (value.version !== VERSION) throw wrong("version", value.version, String(VERSION));
  const { conversations } = value;
  if (!Array.isArray(conversations)) throw wrong("conversations", conversations, "a list");
  if (conversations.length > MOST.conversations) throw wrong("conversations", conversations.length, `at most ${MOST.conversations}`);
  // All are looked at before any is taken.
  return conversations.map((one, index) => checkRecord(one, `conversations[${index}]`));
}

function tooLarge(file) {
  throw wrong("the file's size", `${file.size} bytes`, `at most ${MOST_BYTES}`);
}
