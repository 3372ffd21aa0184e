// Which view the address means; and that it is drawn anew when something has changed, and only then.

import {about, Refusal} from './api.js';
import {changed} from './changes.js';
import {h, patch} from './dom.js';
import {moment} from './format.js';
import {Job} from './job.js';
import {NodeView} from './node.js';
import {Overview} from './overview.js';
import {Task} from './task.js';

const VIEWS = [
  [/^\/page\/?$/, Overview],
  [/^\/page\/jobs\/([^/]+)$/, Job],
  [/^\/page\/jobs\/([^/]+)\/tasks\/([^/]+)$/, Task],
  [/^\/page\/pools\/([^/]+)\/nodes\/([^/]+)$/, NodeView],
];
const LEAST_PAUSE = 400;
const SECOND = 1000;

let shown = 0;
let drawn = null;

/** Shows the view of the address until another is wanted. */
async function show() {
  const turn = shown += 1;
  const view = viewOf(location.pathname);
  while (turn === shown) {
    const began = Date.now();
    try {
      await whenVisible();
      // From before the look: what changes meanwhile is looked at, too.
      const change = await changed();
      await view.look();
      if (turn !== shown) return;
      draw(view);
      trouble('');
      await betweenLooks(view, change, turn);
    } catch (error) {
      if (turn !== shown) return;
      tell(error, view);
      await sleep(SECOND);
    }
    await sleep(Math.max(LEAST_PAUSE - (Date.now() - began), 0));
  }
}

/** Returns when there is a change, or something to look at that makes none; what only the clock changes is drawn. */
async function betweenLooks(view, change, turn) {
  for (;;) {
    const news = await Promise.race([change.next, ...(view.looksAgain() || view.ticks() ? [sleep(SECOND)] : [])]);
    if (news || turn !== shown || view.looksAgain()) return;
    if (!document.hidden) draw(view);
  }
}

function viewOf(path) {
  for (const [pattern, View] of VIEWS) {
    const match = pattern.exec(path);
    if (match) return new View(...match.slice(1).map(decoded));
  }
  return {
    path: [['Not found']],
    look: async () => {},
    draw: () => h('p.empty', {}, 'There is nothing at this address. ', h('a', {href: '/page/'}, 'To the overview')),
    looksAgain: () => false,
    ticks: () => false,
  };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {  // typed by hand
    return text;
  }
}

function draw(view) {
  drawn = view;
  const path = [['Azure Batch on this machine', '/page/'], ...view.path];
  document.title = path.map(([text]) => text).reverse().join(' – ');
  patch(document.getElementById('path'), h('nav', {id: 'path', 'aria-label': 'Where you are'}, h('ol', {}, path.map(
    ([text, href], index) => h('li', {}, href && index < path.length - 1 ? h('a', {href}, text)
      : h('span', {'aria-current': 'page'}, text))))));
  patch(document.getElementById('view'), h('main', {id: 'view', tabindex: '-1'}, view.draw()));
}

function tell(error, view) {
  if (error instanceof Refusal && error.status === 404) {
    draw({path: view.path, draw: () => h('p.empty', {}, `${error.message} It may have been deleted. `,
      h('a', {href: '/page/'}, 'To the overview'))});
  } else if (error instanceof Refusal && error.status === 403) {
    trouble('This page belongs to another run of the service. Open the address that the new run prints.');
  } else if (error instanceof Refusal && [429, 503].includes(error.status)) {
    trouble('The service is busy.');
  } else if (error instanceof Refusal) {
    trouble(error.message);
  } else {
    trouble('The service does not answer: it has ended, or a new run has another address.');
    console.warn(error);
  }
}

function trouble(text) {
  const line = document.getElementById('trouble');
  line.hidden = !text;
  if (line.textContent !== text) line.textContent = text;
}

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

function whenVisible() {
  if (!document.hidden) return null;
  return new Promise((done) => document.addEventListener('visibilitychange', done, {once: true}));
}

/** Links within the page lead from view to view without loading it again. */
document.addEventListener('click', (event) => {
  const link = event.target.closest('a[href]');
  if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const url = new URL(link.href.baseVal ?? link.href, location.href);
  if (url.origin !== location.origin || link.hasAttribute('download') || url.hash
      || !VIEWS.some(([pattern]) => pattern.test(url.pathname))) return;
  event.preventDefault();
  history.pushState(null, '', url);
  scrollTo(0, 0);
  show();
});
addEventListener('popstate', show);
addEventListener('page:address', show);
addEventListener('page:draw', () => drawn && draw(drawn));

about().then(({workspace, since}) => {
  document.getElementById('about').textContent = `The local Batch service, since ${moment(since)}. Workspace: ${workspace}`;
}, () => {});
show();
