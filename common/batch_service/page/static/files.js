// The files of a task or a node: a list, and the text of one, growing as it is written.

import {bytes, fileAt, list, Refusal, sizeOf} from './api.js';
import {h} from './dom.js';
import {count, moment, size} from './format.js';

const MOST_FILES = 500;
const MOST_BYTES = 256 * 1024;

/** The end of a text file, of which only what is new is read. */
export class TextFile {
  #url;

  #name;

  #bytes = new Uint8Array();

  #begin = 0;

  #size = null;

  constructor(owner, name) {
    this.#url = fileAt(owner, name);
    this.#name = name;
  }

  async look() {
    const length = await sizeOf(this.#url);
    const read = this.#begin + this.#bytes.length;
    if (length === null || length < read) [this.#bytes, this.#begin] = [new Uint8Array(), 0];
    this.#size = length;
    if (!length || length === read) return;
    const from = Math.max(this.#begin + this.#bytes.length, length - MOST_BYTES);
    const more = await bytes(this.#url, from, length);
    const kept = from === this.#begin + this.#bytes.length ? this.#bytes : new Uint8Array();
    const all = new Uint8Array([...kept, ...more]);
    this.#bytes = all.slice(Math.max(all.length - MOST_BYTES, 0));
    this.#begin = from - kept.length + all.length - this.#bytes.length;
  }

  draw(title = this.#name) {
    const text = new TextDecoder().decode(this.#bytes);
    return h('section.file', {},
      h('h3', {}, title, this.#size === null ? null : [' ', h('a.small', {href: this.#url, download: this.#name.split('/').pop()},
        `${size(this.#size)}, save`)]),
      this.#begin ? h('p.small', {}, `The last ${size(this.#bytes.length)}:`) : null,
      this.#size === null ? h('p.empty', {}, 'not there') : this.#size ? h('pre.follow', {tabindex: '0'}, text)
        : h('p.empty', {}, 'empty'));
  }
}

/** All files below a task or a node. */
export class Files {
  #owner;

  #files = null;

  #opened = new Map();

  constructor(owner) {
    this.#owner = owner;
  }

  async look() {
    try {
      this.#files = await list(`${this.#owner}/files`, {recursive: 'true', maxresults: MOST_FILES}, MOST_FILES);
    } catch (error) {
      if (!(error instanceof Refusal && error.status === 409)) throw error;
      this.#files = error.message;
    }
    await Promise.all([...this.#opened.values()].map((file) => file.look()));
  }

  draw() {
    if (!Array.isArray(this.#files)) return h('p.empty', {}, this.#files || '');
    const files = this.#files.filter((file) => !file.isDirectory);
    return [
      h('table.files', {}, h('tbody', {}, files.map((file) => this.#row(file)))),
      files.length ? null : h('p.empty', {}, 'none'),
      this.#files.length >= MOST_FILES ? h('p.small', {}, `The first ${count(files.length, 'file')}.`) : null,
      [...this.#opened.values()].map((file) => file.draw()),
    ];
  }

  #row({name, properties}) {
    return h('tr', {},
      h('th', {scope: 'row'}, h('button.link', {type: 'button', 'aria-expanded': String(this.#opened.has(name)),
        onclick: () => this.#toggle(name)}, name)),
      h('td.number', {}, size(Number(properties.contentLength))),
      h('td', {}, moment(properties.lastModified)),
      h('td', {}, h('a', {href: fileAt(this.#owner, name), download: name.split('/').pop(), 'aria-label': `save ${name}`},
        'save')));
  }

  async #toggle(name) {
    if (!this.#opened.delete(name)) {
      const file = new TextFile(this.#owner, name);
      await file.look();
      this.#opened.set(name, file);
    }
    dispatchEvent(new Event('page:draw'));
  }
}
