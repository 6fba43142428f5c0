// Where conversations are kept: IndexedDB, one record each; memory where the browser blocks it.

import { titleOf } from "./record.js";

const STORE = "conversations";
const SUMMARY = "summary";
const PATIENCE = 5000;

/** Open the database, or a stand-in whose `isLasting` is false. */
export async function openDatabase(name) {
  try {
    return new Database(await open(name));
  } catch {
    return new Memory();
  }
}

function open(name) {
  return new Promise((resolve, reject) => {
    // A browser that never answers is one without storage.
    setTimeout(() => reject(new Error("no answer")), PATIENCE);
    const request = indexedDB.open(name, 1);
    request.onupgradeneeded = () => {
      const store = request.result.createObjectStore(STORE, { keyPath: "id" });
      // Its keys alone are the list: no record has to be read for it.
      store.createIndex(SUMMARY, ["updated", "title"]);
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked"));
  });
}

class Database {
  isLasting = true;
  #db;

  constructor(db) {
    this.#db = db;
    db.onversionchange = () => db.close();
  }

  /** Return what the list shows of each: id, title, and when it was last changed. */
  async summaries() {
    const found = [];
    await this.#walk(this.#store("readonly").index(SUMMARY).openKeyCursor(), ({ key: [updated, title], primaryKey }) =>
      found.push({ id: primaryKey, updated, title }));
    return found;
  }

  /** Call for each record, one after the other. */
  each(call) {
    return this.#walk(this.#store("readonly").openCursor(), ({ value }) => call(value));
  }

  get(id) {
    return done(this.#store("readonly").get(id));
  }

  put(record) {
    return this.#write((store) => store.put(titled(record)));
  }

  delete(id) {
    return this.#write((store) => store.delete(id));
  }

  #store(mode) {
    return this.#db.transaction(STORE, mode).objectStore(STORE);
  }

  #write(change) {
    return new Promise((resolve, reject) => {
      const store = this.#store("readwrite");
      const { transaction } = store;
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
      change(store);
      // Else it waits for this page to say that there is no more, which it may not live to do.
      transaction.commit();
    });
  }

  #walk(request, call) {
    return new Promise((resolve, reject) => {
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor) return resolve();
        call(cursor);
        cursor.continue();
      };
    });
  }
}

const titled = (record) => ({ ...record, title: titleOf(record) });

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

class Memory {
  isLasting = false;
  #records = new Map();

  async summaries() {
    return [...this.#records.values()].map(({ id, updated, title }) => ({ id, updated, title }));
  }

  async each(call) {
    for (const record of this.#records.values()) call(structuredClone(record));
  }

  async get(id) {
    return structuredClone(this.#records.get(id));
  }

  async put(record) {
    this.#records.set(record.id, structuredClone(titled(record)));
  }

  async delete(id) {
    this.#records.delete(id);
  }
}
