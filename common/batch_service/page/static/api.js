// Reads of the Batch REST API, by the page's own path and cookie.

const API = '/page/api';

export class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The path of a resource: at('jobs', id, 'tasks', id). */
export const at = (...segments) => segments.map((segment) => `/${encodeURIComponent(segment)}`).join('');

/** A text as filters have it. */
export const quoted = (text) => `'${text.replaceAll("'", "''")}'`;

/** The path of a file below a task or a node, whose name may have slashes. */
export const fileAt = (owner, name) => `${API}${owner}/files/${name.split('/').map(encodeURIComponent).join('/')}`;

export async function get(path, parameters = {}) {
  return (await asked(`${API}${path}?${new URLSearchParams(parameters)}`)).json();
}

/** One page of a list: its items, and what to give as 'after' for the next one, if there is one. */
export async function page(path, parameters, after = '') {
  const answer = await get(path, after ? {...parameters, $skiptoken: after} : parameters);
  const next = answer['odata.nextLink'];
  return {items: answer.value, next: next ? new URL(next).searchParams.get('$skiptoken') : ''};
}

/** The items of a list, page after page, at most about so many. */
export async function list(path, parameters = {}, most = 1000) {
  const items = [];
  for (let after = ''; ;) {
    const one = await page(path, parameters, after);
    items.push(...one.items);
    after = one.next;
    if (!after || items.length >= most) return items;
  }
}

/** The size of a file in bytes; null if it is not there. */
export async function sizeOf(url) {
  try {
    return Number((await asked(url, {method: 'HEAD'})).headers.get('Content-Length'));
  } catch (error) {
    if (error instanceof Refusal && (error.status === 404 || error.status === 409)) return null;
    throw error;
  }
}

/** The bytes of a file from one place up to another. */
export async function bytes(url, begin, end) {
  return new Uint8Array(await (await asked(url, {headers: {'ocp-range': `bytes=${begin}-${end - 1}`}})).arrayBuffer());
}

/** Waits for a change after the one of a number, for half a minute at most; returns the number of the last one. */
export async function change(after) {
  return (await (await asked(`/page/changes?after=${after}`)).json()).number;
}

export const about = async () => (await asked('/page/about')).json();

async function asked(url, options) {
  const answer = await fetch(url, options);
  if (answer.ok) return answer;
  const error = await answer.json().catch(() => ({}));
  throw new Refusal(answer.status, error.code || '', (error.message || {}).value?.split('\n')[0] || answer.statusText);
}
