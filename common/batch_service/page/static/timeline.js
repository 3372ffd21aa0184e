// The picture of a job: a row for each slot of each node, a bar for each task, and above them how many tasks wait.

import {at} from './api.js';
import {h, svg} from './dom.js';
import {byMoment, count, duration, seconds, short} from './format.js';

const MOST_ROWS = 48;
const [LEFT, ROW, QUEUE, AXIS, WIDTH] = [150, 16, 40, 22, 1000];
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400];

/** Draws the runs of a job; slots is how many each node has. */
export function timeline(job, runs, slots) {
  const started = runs.filter((run) => run.begin && run.node);
  if (!started.length) return h('p.empty', {}, 'No task has started yet.');
  const now = new Date();
  const first = new Date(runs.map((run) => run.added || run.begin).reduce((one, other) => (byMoment(other, one) < 0 ? other : one)));
  const last = Math.max(...started.map((run) => (run.end ? new Date(run.end) : now)));
  const span = Math.max((last - first) / 1000, 0.1);
  const x = (moment) => LEFT + Math.max(seconds(first, moment), 0) / span * (WIDTH - LEFT - 10);
  const rows = inRows(started, slots);
  const shown = rows.slice(0, MOST_ROWS);
  const known = runs.every((run) => run.added);
  const top = known ? QUEUE : 4;
  const height = top + shown.length * ROW + AXIS;
  return h('figure.timeline', {},
    svg('svg', {viewBox: `0 0 ${WIDTH} ${height}`, role: 'group',
      'aria-label': `${count(started.length, 'run')} of tasks on ${count(rows.length, 'slot')} in ${duration(span)}`},
      shown.map((row, index) => (index % 2 ? null : svg('rect.stripe', {x: 0, y: top + index * ROW, width: WIDTH, height: ROW}))),
      axis(span, top, height, (time) => x(new Date(first.getTime() + time * 1000))),
      known ? queue(runs, x, now) : null,
      shown.map((row, index) => drawRow(job, row, top + index * ROW, x, now))),
    h('figcaption', {}, [
      known ? 'Above: how many tasks wait. Below:' : 'The tasks that run, and the last ten of each node:',
      ' a row for each slot of each node, a bar for each task.',
      rows.length > MOST_ROWS ? ` The first ${MOST_ROWS} of ${rows.length} rows.` : ''].join('')));
}

/** Puts the runs into rows, one for each slot of a node that runs tasks; of large nodes only those that were used. */
function inRows(runs, slots) {
  const rows = [];
  const byNode = new Map();
  for (const run of [...runs].sort((one, other) => byMoment(one.begin, other.begin))) {
    if (!byNode.has(run.node)) byNode.set(run.node, []);
    const lanes = byNode.get(run.node);
    const lane = lanes.find((candidate) => candidate.end && byMoment(candidate.end, run.begin) <= 0) || newLane(run.node, lanes);
    lane.runs.push(run);
    lane.end = run.end;
  }
  for (const [node, lanes] of [...byNode].sort()) {
    while (byNode.size * slots <= MOST_ROWS && lanes.length < slots) newLane(node, lanes);
    rows.push(...lanes);
  }
  return rows;
}

function newLane(node, lanes) {
  lanes.push({node, number: lanes.length, runs: []});
  return lanes.at(-1);
}

function drawRow(job, row, y, x, now) {
  return svg('g', {},
    svg('text.label', {x: 4, y: y + ROW - 4}, row.number ? `slot ${row.number + 1}` : `${short(row.node)} · slot 1`),
    row.runs.map((run) => svg('a', {href: `/page${at('jobs', job, 'tasks', run.id)}`,
      'aria-label': `${run.id}: ${outcome(run)}`},
    svg('title', {}, `${run.id}: ${outcome(run)}\n${run.slots > 1 ? `${run.slots} slots` : ''}`.trim()),
    svg(`rect.run.${run.end ? (run.failed ? 'failed' : 'succeeded') : 'running'}`, {x: x(run.begin), y: y + 2,
      width: Math.max(x(run.end || now) - x(run.begin) - 0.6, 1.2), height: ROW - 4, rx: 2}))));
}

const outcome = (run) => `${run.end ? (run.failed ? 'failed' : 'succeeded') : 'runs'}, `
  + `${duration(seconds(run.begin, run.end))}${run.added ? `, waited ${duration(seconds(run.added, run.begin))}` : ''}`;

/** How many tasks were waiting at each moment, as an area. */
function queue(runs, x, now) {
  const steps = runs.flatMap((run) => [[run.added, 1], ...(run.begin ? [[run.begin, -1]]
    : run.state === 'active' || run.state === 'preparing' ? [] : [[run.end || run.added, -1]])])
    .sort(([one], [other]) => byMoment(one, other));
  let waiting = 0;
  let most = 1;
  const corners = steps.map(([moment, step]) => {
    waiting += step;
    most = Math.max(most, waiting);
    return [x(moment), waiting];
  });
  const y = (value) => QUEUE - 6 - value / most * (QUEUE - 14);
  const line = corners.map(([at, value]) => `H${at.toFixed(1)}V${y(value).toFixed(1)}`).join('');
  return svg('g', {},
    svg('text.label', {x: 4, y: QUEUE - 10}, `waiting, at most ${most}`),
    svg('path.queue', {d: `M${LEFT} ${y(0)}${line}${waiting ? `H${x(now)}` : ''}V${y(0)}Z`}));
}

function axis(span, top, height, x) {
  const step = STEPS.find((candidate) => span / candidate <= 8) || Math.ceil(span / 8 / 86400) * 86400;
  const marks = Array.from({length: Math.floor(span / step) + 1}, (_, index) => index * step);
  return svg('g', {}, marks.map((time) => [
    svg('line.mark', {x1: x(time), x2: x(time), y1: top, y2: height - AXIS}),
    svg('text.label', {x: x(time), y: height - 6, 'text-anchor': 'middle'}, time ? duration(time) : '0')]));
}
