// All pools with their nodes, and all jobs with their tasks.

import {at, get, list} from './api.js';
import {h} from './dom.js';
import {byMoment, count, duration, inWords, moment, number, seconds} from './format.js';
import {failure, state, taskBar} from './parts.js';
import {Rates} from './rates.js';

const MOST_NODES = 2000;
const MOST_JOBS = 50;

export class Overview {
  path = [];

  #pools = [];

  #jobs = [];

  #rates = new Rates();

  async look() {
    const [pools, jobs] = await Promise.all([list('/pools'), list('/jobs')]);
    // The newest first: of many jobs, those that may be at work.
    jobs.sort((one, other) => byMoment(other.creationTime, one.creationTime));
    this.#pools = await Promise.all(pools.map(async (pool) => ({...pool, nodes: await list(
      `${at('pools', pool.id)}/nodes`, {$select: 'id,state,schedulingState,runningTaskSlotsCount'}, MOST_NODES)})));
    this.#jobs = await Promise.all(jobs.map(async (job, index) => ({...job,
      counts: index < MOST_JOBS ? (await get(`${at('jobs', job.id)}/taskcounts`)).taskCounts : null})));
    for (const {id, counts} of this.#jobs) if (counts) this.#rates.note(id, counts.completed);
  }

  looksAgain() { return false; }

  ticks() { return this.#jobs.some((job) => job.state === 'active'); }

  draw() {
    return [
      h('section', {}, h('h2', {}, 'Pools'), this.#pools.map(poolCard), this.#pools.length ? null : h('p.empty', {},
        'There is no pool. Run the tutorial, or any Batch client with the settings that ',
        h('code', {}, 'python -m common.local_azure'), ' prints: its pools appear here, and its jobs below.')),
      h('section', {}, h('h2', {}, 'Jobs'), this.#jobs.map((job) => this.#jobCard(job)), this.#jobs.length ? null
        : h('p.empty', {}, 'There is no job.')),
    ];
  }

  #jobCard(job) {
    const href = `/page${at('jobs', job.id)}`;
    const ended = (job.executionInfo || {}).endTime;
    const rate = this.#rates.of(job.id);
    return h('article.card', {},
      h('h3', {}, h('a', {href}, job.id), ' ', state(job.state)),
      job.counts ? taskBar(job.counts, href) : null,
      h('p.small', {}, [`on ${job.poolInfo.poolId}`, `added ${moment(job.creationTime)}`,
        ended ? `took ${duration(seconds(job.creationTime, ended))}` : `${duration(seconds(job.creationTime))} old`,
        rate && `${rate} tasks a second`].filter(Boolean).join(' · ')));
  }
}

function poolCard(pool) {
  const states = new Map();
  for (const {state: name} of pool.nodes) states.set(name, (states.get(name) || 0) + 1);
  const target = pool.targetDedicatedNodes + (pool.targetLowPriorityNodes || 0);
  return h('article.card', {},
    h('h3', {}, pool.id, ' ', state(pool.state === 'active' ? pool.allocationState : pool.state)),
    h('p.small', {}, `${number(pool.nodes.length)} of ${count(target, 'node')} · `
      + `${count(pool.taskSlotsPerNode, 'task slot')} each · ${pool.vmSize} · added ${moment(pool.creationTime)}`),
    (pool.resizeErrors || []).map(failure),
    h('ul.nodes', {onkeydown: moveFocus}, pool.nodes.map((node, index) => h('li', {}, h(`a.${node.state}`, {
      href: `/page${at('pools', pool.id, 'nodes', node.id)}`,
      tabindex: index ? '-1' : '0',
      title: `${node.id}: ${inWords(node.state)}, ${node.runningTaskSlotsCount || 0} of ${pool.taskSlotsPerNode} slots`,
      'aria-label': `${node.id}: ${inWords(node.state)}, ${node.runningTaskSlotsCount || 0} slots in use`,
      '--filled': (node.runningTaskSlotsCount || 0) / pool.taskSlotsPerNode,
    })))),
    h('p.legend', {}, [...states].map(([name, nodes]) => h('span', {}, h(`i.${name}`, {}),
      `${number(nodes)} ${inWords(name)}`))));
}

/** The arrow keys lead from node to node; the Tab key finds one of them. */
function moveFocus(event) {
  const squares = [...event.currentTarget.querySelectorAll('a')];
  const here = squares.indexOf(document.activeElement);
  const top = (square) => square.getBoundingClientRect().top;
  const columns = squares.findIndex((square) => top(square) > top(squares[0]));
  const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
  const next = squares[here + (step || 0)];
  if (!step || !next) return;
  event.preventDefault();
  squares[here].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
