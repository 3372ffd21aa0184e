// One job: its tasks as a bar, as a timeline, and in a table.

import {at, get, list, page, quoted} from './api.js';
import {h} from './dom.js';
import {count, duration, moment, number, outcome, seconds} from './format.js';
import {facts, nodeLink, pairs, state, taskBar} from './parts.js';
import {Rates} from './rates.js';
import {Runs} from './runs.js';
import {timeline} from './timeline.js';

const ROWS = 100;
// To find the failed ones, the service reads all tasks.
const PAUSE_OF_A_SEARCH = 5000;

const FILTERS = {
  active: "state eq 'active'", preparing: "state eq 'preparing'", running: "state eq 'running'",
  succeeded: "state eq 'completed' and executionInfo/result eq 'success'",
  failed: "state eq 'completed' and executionInfo/result eq 'failure'",
};

const COLUMNS = {
  id: ['Task', (task) => task.id],
  state: ['State', (task) => outcome(task)],
  node: ['Node', (task) => task.nodeInfo?.nodeId || ''],
  code: ['Exit code', (task) => task.executionInfo?.exitCode ?? ''],
  time: ['Took', (task) => seconds(task.executionInfo?.startTime, task.executionInfo?.endTime)],
  retries: ['Retries', (task) => task.executionInfo?.retryCount || 0],
};

const BY_NUMBERS = new Intl.Collator(undefined, {numeric: true});

export class Job {
  #id;

  #job = {};

  #counts = {};

  #slots = 1;

  #runs;

  #rates = new Rates();

  #page = {items: [], next: ''};

  #searched = 0;

  constructor(id) {
    this.#id = id;
    this.#runs = new Runs(id);
    this.path = [[id]];
  }

  get #href() { return `/page${at('jobs', this.#id)}`; }

  async look() {
    const path = at('jobs', this.#id);
    const [job, {taskCounts}] = await Promise.all([get(path), get(`${path}/taskcounts`)]);
    [this.#job, this.#counts] = [job, taskCounts];
    this.#rates.note('tasks', taskCounts.completed);
    // A job may outlive its pool.
    const [pool] = await list('/pools', {$filter: `id eq ${quoted(job.poolInfo.poolId)}`, $select: 'id,taskSlotsPerNode'});
    this.#slots = pool?.taskSlotsPerNode || 1;
    await this.#runs.look(this.#total, pool?.id);
    if (!this.#runs.tasks) await this.#lookAtPage(`${path}/tasks`);
  }

  looksAgain() { return false; }

  ticks() { return this.#counts.running > 0; }

  get #total() { return this.#counts.active + this.#counts.running + this.#counts.completed; }

  async #lookAtPage(path) {
    const {state: wanted, id, after} = this.#wanted();
    const reads = wanted === 'failed' || wanted === 'succeeded' || id;
    if (reads && this.#searched > Date.now() - PAUSE_OF_A_SEARCH) return;
    this.#searched = Date.now();
    const filter = [FILTERS[wanted], id && `startswith(id,${quoted(id)})`].filter(Boolean).join(' and ');
    this.#page = await page(path, {$select: 'id,state,nodeInfo,executionInfo', maxresults: ROWS,
      ...(filter ? {$filter: filter} : {})}, after);
  }

  /** What the address says of the table. */
  #wanted() {
    const query = new URLSearchParams(location.search);
    return {state: FILTERS[query.get('state')] ? query.get('state') : '', id: query.get('id') || '',
      sort: query.get('sort') || '', after: query.get('after') || '', from: Number(query.get('from')) || 0};
  }

  draw() {
    const job = this.#job;
    const ended = job.executionInfo?.endTime;
    const rate = this.#rates.of('tasks');
    return [
      h('h1', {}, this.#id, ' ', state(job.state)),
      taskBar(this.#counts, this.#href),
      facts([['pool', job.poolInfo.poolId], ['added', moment(job.creationTime)], ['ended', moment(ended)],
        [ended ? 'took' : 'age', duration(seconds(job.creationTime, ended))],
        ['rate', rate && `${rate} tasks a second`], ['reason of its end', job.executionInfo?.terminateReason],
        ['scheduling error', job.executionInfo?.schedulingError?.message], ['priority', job.priority || ''],
        ['when all tasks are completed', job.onAllTasksComplete === 'terminatejob' ? 'it ends' : '']]),
      pairs(job.metadata, 'metadata item'),
      h('section', {}, h('h2', {}, 'Timeline'), timeline(this.#id, this.#runs.all, this.#slots)),
      h('section', {}, h('h2', {}, 'Tasks'), this.#form(), this.#table()),
    ];
  }

  #form() {
    const {state: wanted, id} = this.#wanted();
    return h('form.filter', {role: 'search', onsubmit: (event) => event.preventDefault()},
      h('label', {}, 'State ', h('select', {onchange: (event) => this.#go({state: event.target.value})},
        h('option', {value: '', selected: !wanted}, 'any'),
        Object.keys(FILTERS).map((name) => h('option', {value: name, selected: wanted === name}, name)))),
      h('label', {}, 'Id begins with ', h('input', {type: 'search', value: id, spellcheck: 'false', autocomplete: 'off',
        maxlength: 64, onchange: (event) => this.#go({id: event.target.value})})));
  }

  #table() {
    const {sort, from} = this.#wanted();
    const all = this.#runs.tasks ? this.#chosen() : this.#page.items;
    const rows = sorted(all, sort).slice(this.#runs.tasks ? from : 0, this.#runs.tasks ? from + ROWS : undefined);
    const next = this.#runs.tasks ? (from + ROWS < all.length ? {from: from + ROWS} : null)
      : (this.#page.next ? {after: this.#page.next} : null);
    return [
      h('table.tasks', {}, h('thead', {}, h('tr', {}, Object.keys(COLUMNS).map((name) => this.#heading(name, sort)))),
        h('tbody', {}, rows.map((task) => this.#row(task)))),
      rows.length ? null : h('p.empty', {}, this.#total ? 'No task is like that.' : 'The job has no tasks yet.'),
      h('p.pages', {}, this.#runs.tasks ? `${rows.length ? number(from + 1) : 0} to ${number(from + rows.length)} of `
        + count(all.length, 'task') : `${count(rows.length, 'task')} on this page, sorted among themselves`, ' ',
      next ? h('button', {type: 'button', onclick: () => this.#go(next)}, `Next ${ROWS}`) : null),
    ];
  }

  #chosen() {
    const {state: wanted, id} = this.#wanted();
    return [...this.#runs.tasks.values()].filter((task) => (!wanted || outcome(task) === wanted)
      && task.id.toLowerCase().startsWith(id.toLowerCase()));
  }

  #heading(name, sort) {
    const [up, down] = [sort === name, sort === `-${name}`];
    return h(`th${['code', 'time', 'retries'].includes(name) ? '.number' : ''}`, {scope: 'col', 'aria-sort': up ? 'ascending' : down ? 'descending' : null},
      h('button', {type: 'button', onclick: () => this.#go({sort: up ? `-${name}` : name})}, COLUMNS[name][0]));
  }

  #row(task) {
    const [, , , code, time, retries] = Object.values(COLUMNS).map(([, value]) => value(task));
    const node = task.nodeInfo;
    return h('tr', {},
      h('th', {scope: 'row'}, h('a', {href: `/page${at('jobs', this.#id, 'tasks', task.id)}`}, task.id)),
      h('td', {}, state(outcome(task))),
      h('td', {}, node ? nodeLink(node) : ''),
      h('td.number', {}, String(code)), h('td.number', {}, duration(time)), h('td.number', {}, retries ? number(retries) : ''));
  }

  /** Goes to the same job with something else wanted of the table. */
  #go(changes) {
    const query = new URLSearchParams(location.search);
    query.delete('after');
    query.delete('from');
    for (const [name, value] of Object.entries(changes)) {
      if (value) query.set(name, value);
      else query.delete(name);
    }
    history.pushState(null, '', `${location.pathname}${String(query) && `?${query}`}`);
    this.#searched = 0;
    dispatchEvent(new Event('page:address'));
  }
}

function sorted(tasks, sort) {
  const [name, sign] = sort.startsWith('-') ? [sort.slice(1), -1] : [sort, 1];
  const value = COLUMNS[name]?.[1];
  if (!value) return tasks;
  return [...tasks].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    return sign * (typeof a === 'number' && typeof b === 'number' ? a - b : BY_NUMBERS.compare(a ?? '', b ?? ''));
  });
}

