// How moments, times, sizes and states are written, in the reader's language and zone.

const MOMENT = new Intl.DateTimeFormat(undefined, {dateStyle: 'medium', timeStyle: 'medium'});
const TIME = new Intl.DateTimeFormat(undefined, {timeStyle: 'medium'});
const NUMBER = new Intl.NumberFormat();

export const number = (value) => NUMBER.format(value);

/** A count with its word: '1 task', '2 tasks'. */
export const count = (value, word) => `${number(value)} ${word}${value === 1 ? '' : 's'}`;

/** A moment: the time, and the day too unless it is today. */
export function moment(text) {
  if (!text) return '';
  const then = new Date(text);
  return (then.toDateString() === new Date().toDateString() ? TIME : MOMENT).format(then);
}

/** Orders moments. Their fractions have no zeros at the end: with its Z, .5 would be later than .51. */
export function byMoment(one, other) {
  const [a, b] = [one.slice(0, -1), other.slice(0, -1)];
  return a < b ? -1 : Number(a > b);
}

/** The seconds between two moments; up to now where the second is missing, and none where the first is. */
export function seconds(begin, end) {
  return begin ? Math.max((end ? new Date(end) : new Date()) - new Date(begin), 0) / 1000 : null;
}

export function duration(time) {
  if (time === null) return '';
  if (time < 10) return `${time.toFixed(1)} s`;
  const [days, hours, minutes, rest] = [time / 86400, time / 3600 % 24, time / 60 % 60, time % 60].map(Math.floor);
  const parts = days ? [[days, 'd'], [hours, 'h']] : hours ? [[hours, 'h'], [minutes, 'min']] : [[minutes, 'min'], [rest, 's']];
  return parts.filter(([value]) => value).map((part) => part.join(' ')).join(' ') || '0 s';
}

/** A duration as the API has it, such as P1DT2H; empty for its way to say that there is no limit. */
export function limit(text) {
  const match = /^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?$/.exec(text || '');
  if (!match || Number(match[1]) > 10_000_000) return '';
  const [days, hours, minutes, rest] = match.slice(1).map((part) => Number(part || 0));
  return duration(((days * 24 + hours) * 60 + minutes) * 60 + rest);
}

export function size(bytes) {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let unit = 0;
  for (; bytes >= 1000 && unit < units.length - 1; unit += 1) bytes /= 1000;
  return `${unit && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

const WORDS = {
  waitingforstarttask: 'start task', starttaskfailed: 'start task failed', leavingpool: 'leaving', offline: 'offline',
};

/** A state of the API in words. */
export const inWords = (state) => WORDS[state] || state;

/** What tells a node from the others of its pool: their ids begin and end alike. */
export const short = (node) => node.replace(/^tvmps_(.{8}).*$/, '$1');

/** What has become of a task: its state, or for a completed one how it ended. */
export function outcome(task) {
  if (task.state !== 'completed') return task.state;
  return (task.executionInfo || {}).result === 'failure' ? 'failed' : 'succeeded';
}

/** Without the signatures of SAS: whoever looks over the reader's shoulder must not be able to use them. */
export const withoutSecrets = (text) => text.replace(/(\bsig(?:=|%3d))[^&\s'"]+/gi, '$1...');
