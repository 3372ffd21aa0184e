// Word of every change: one request that waits for it, whatever views come and go. A browser has few connections to spare.

import {change} from './api.js';

let number = '';
let waiting = null;

/** Returns when it is known where the changes are; 'next' of what it returns is a promise of the next one. */
export async function changed() {
  if (!number) number = await change('');
  waiting ??= change(number).then((newer) => {
    waiting = null;
    number = newer;
    return true;
  }, (error) => {
    waiting = null;
    number = '';
    throw error;
  });
  waiting.catch(() => {});  // whoever waits for it hears of it
  return {next: waiting};
}
