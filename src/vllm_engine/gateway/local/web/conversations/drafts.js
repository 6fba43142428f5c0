// What is typed and not sent, for each conversation; and which conversation this tab shows.

import { store, tabStore } from "../lib/dom.js";
import { PLACE } from "./library.js";
import { newId } from "./record.js";

const OPEN = `${PLACE} open`;
const key = (id) => `${PLACE} draft ${id}`;

export const drafts = {
  get: (id) => String(tabStore.get(key(id), "") || store.get(key(id), "")),
  /** Those of a chat that has not begun are the tab's own: no other tab shows that chat. */
  set(id, text, { hasBegun }) {
    tabStore.remove(key(id));
    store.remove(key(id));
    if (text) (hasBegun ? store : tabStore).set(key(id), text);
  },
};

export const openId = {
  get: () => tabStore.get(OPEN, null) ?? newId(),
  set: (id) => tabStore.set(OPEN, id),
};
