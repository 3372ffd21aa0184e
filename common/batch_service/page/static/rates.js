// How fast something grows, seen from this page.

const WINDOW = 10_000;

export class Rates {
  #seen = new Map();

  /** Notes a number of things that are done. */
  note(name, done) {
    const now = Date.now();
    const before = (this.#seen.get(name) || []).filter(([time]) => time > now - WINDOW);
    this.#seen.set(name, [...before, [now, done]]);
  }

  /** How many a second were done in the last seconds, as a text; empty for none. */
  of(name) {
    const [first, last] = [this.#seen.get(name)?.[0], this.#seen.get(name)?.at(-1)];
    if (!first || last[0] - first[0] < 500 || last[0] < Date.now() - 2000 || last[1] <= first[1]) return '';
    const rate = (last[1] - first[1]) / (last[0] - first[0]) * 1000;
    return rate < 10 ? rate.toFixed(1) : Math.round(rate).toString();
  }
}
