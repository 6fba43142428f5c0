// What an earlier page left in local storage: what it could not finish writing, and the conversation of older versions.

import { store } from "../lib/dom.js";
import { checkRecord, newRecord } from "./record.js";

/** Keep records that a page which is being left has not written yet. */
export function leaveBehind(place, records) {
  for (const record of records) store.set(`${place} unsaved ${record.id}`, record);
}

/** Write each record that was left behind, unless a newer one is there; returns the ids of those written. */
export async function takeUp(place, database) {
  const written = [];
  for (const key of store.keys(`${place} unsaved `)) {
    const record = valid(store.get(key, null));
    const known = record && (await database.get(record.id));
    const isNewer = record && !(known?.updated > record.updated);
    if (isNewer && !(await isPut(database, record))) continue;
    if (isNewer) written.push(record.id);
    store.remove(key);
  }
  await migrate(place, database);
  return written;
}

/** The page once had one conversation, in local storage beside the options, which stay there. */
async function migrate(place, database) {
  const { messages, ...options } = store.get(place, {});
  if (!Array.isArray(messages)) return;
  const record = valid({
    ...newRecord(),
    messages: messages.map((message, index) => ({ ...message, parent: index ? index - 1 : null })),
    head: messages.length ? messages.length - 1 : null,
  });
  const isThere = !record?.messages.length || (await isPut(database, record));
  if (isThere && database.isLasting) store.set(place, options);
}

async function isPut(database, record) {
  try {
    await database.put(record);
    return true;
  } catch {
    // There is no room for it: it stays where it is.
    return false;
  }
}

function valid(value) {
  try {
    return checkRecord(value, "record");
  } catch {
    return null;
  }
}
