// One node: its state, its start task, what went wrong, and what it ran and runs.

import {at, get, list} from './api.js';
import {h} from './dom.js';
import {count, duration, moment, outcome, seconds} from './format.js';
import {Files, TextFile} from './files.js';
import {code, facts, failure, state} from './parts.js';

export class NodeView {
  #pool;

  #id;

  #node = {};

  #running = [];

  #output;

  #files;

  constructor(pool, id) {
    [this.#pool, this.#id] = [pool, id];
    this.path = [[pool], [id]];
    const owner = at('pools', pool, 'nodes', id);
    this.#output = ['startup/stdout.txt', 'startup/stderr.txt'].map((name) => new TextFile(owner, name));
    this.#files = new Files(owner);
  }

  async look() {
    this.#node = await get(at('pools', this.#pool, 'nodes', this.#id));
    this.#running = this.#node.runningTasksCount ? await this.#lookForTasks() : [];
    await Promise.all([...(this.#node.startTask ? this.#output : []), this.#files].map((one) => one.look()));
  }

  /** The tasks that run here: a node only knows how many. */
  async #lookForTasks() {
    const jobs = await list('/jobs', {$filter: "state ne 'completed'", $select: 'id,poolInfo'});
    const running = await Promise.all(jobs.filter((job) => job.poolInfo.poolId === this.#pool).map(
      async ({id}) => (await list(`${at('jobs', id)}/tasks`, {$filter: "state eq 'running'",
        $select: 'id,nodeInfo,executionInfo'})).map((task) => ({...task, jobId: id, taskId: task.id, taskState: 'running'}))));
    return running.flat().filter((task) => task.nodeInfo.nodeId === this.#id);
  }

  /** What a start task writes changes no document. */
  looksAgain() { return this.#node.state === 'waitingforstarttask'; }

  ticks() { return this.#running.length > 0; }

  draw() {
    const node = this.#node;
    return [
      h('h1', {}, this.#id, ' ', state(node.state), node.schedulingState === 'disabled' ? ' takes no tasks' : ''),
      (node.errors || []).map(failure),
      facts([['pool', this.#pool], ['address', node.ipAddress], ['size', node.vmSize],
        ['allocated', moment(node.allocationTime)], ['booted', moment(node.lastBootTime)],
        ['in this state for', duration(seconds(node.stateTransitionTime))],
        ['runs now', count(node.runningTasksCount || 0, 'task')], ['has run', count(node.totalTasksRun || 0, 'task')],
        ['of these succeeded', node.totalTasksRun ? node.totalTasksSucceeded : '']]),
      this.#startTask(),
      h('h2', {}, 'Its tasks'), this.#tasks(),
      h('h2', {}, 'Files'), this.#files.draw(),
    ];
  }

  #startTask() {
    const {startTask, startTaskInfo: info} = this.#node;
    if (!startTask) return null;
    return [
      h('h2', {}, 'Start task ', info ? state(info.result === 'failure' ? 'failed' : info.state) : ''),
      info ? [failure(info.failureInfo), facts([['exit code', info.exitCode], ['began', moment(info.startTime)],
        ['took', duration(seconds(info.startTime, info.endTime))],
        ['tried again', info.retryCount ? count(info.retryCount, 'time') : '']])] : null,
      code(startTask.commandLine),
      this.#output.map((file) => file.draw()),
    ];
  }

  #tasks() {
    const tasks = [...this.#running, ...(this.#node.recentTasks || [])];
    if (!tasks.length) return h('p.empty', {}, 'none has run here yet');
    return h('table.tasks', {}, h('tbody', {}, tasks.map(({jobId, taskId, taskState, executionInfo}) => h('tr', {},
      h('th', {scope: 'row'}, h('a', {href: `/page${at('jobs', jobId, 'tasks', taskId)}`}, `${jobId} / ${taskId}`)),
      h('td', {}, state(outcome({state: taskState, executionInfo}))),
      h('td.number', {}, String(executionInfo.exitCode ?? '')),
      h('td.number', {}, duration(seconds(executionInfo.startTime, executionInfo.endTime)))))));
  }
}
