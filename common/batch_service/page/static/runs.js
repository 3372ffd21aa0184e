// The runs of a job's tasks: when each waited, and when it ran where.

import {at, list} from './api.js';
import {byMoment} from './format.js';

/** So many tasks are all known to the page; of more, only those that run and the last ones of each node. */
export const MOST_TASKS = 2000;

const PROPERTIES = {$select: 'id,state,stateTransitionTime,creationTime,nodeInfo,executionInfo,requiredSlots'};
const MOST_RUNNING = 1000;

export class Runs {
  /** All tasks by their ids, as the API has them; null if there are too many. */
  tasks = null;

  #job;

  #path;

  #last = '';

  #recent = new Map();

  constructor(job) {
    this.#job = job;
    this.#path = `${at('jobs', job)}/tasks`;
  }

  /** Looks at what has changed; total is how many tasks the job has, pool the id of its pool. */
  async look(total, pool) {
    if (total > MOST_TASKS) {
      this.tasks = null;
      await this.#lookAtNodes(pool);
      return;
    }
    if (this.tasks && this.#last) this.#take(await this.#changed());
    if (!this.tasks || this.tasks.size !== total) {
      this.tasks = new Map();
      this.#take(await list(this.#path, PROPERTIES, MOST_TASKS));
    }
  }

  /** Runs that are known: {id, node, begin, end, slots, outcome}, and those of tasks that wait have no begin. */
  get all() {
    if (!this.tasks) return [...this.#recent.values()];
    return [...this.tasks.values()].map((task) => ({
      id: task.id, added: task.creationTime, node: task.nodeInfo?.nodeId, slots: task.requiredSlots || 1,
      begin: task.executionInfo?.startTime, end: task.executionInfo?.endTime, state: task.state,
      failed: task.executionInfo?.result === 'failure',
    }));
  }

  async #changed() {
    return list(this.#path, {...PROPERTIES, $filter: `stateTransitionTime ge datetime'${this.#last}'`});
  }

  #take(tasks) {
    for (const task of tasks) {
      this.tasks.set(task.id, task);
      if (byMoment(task.stateTransitionTime, this.#last) > 0) this.#last = task.stateTransitionTime;
    }
  }

  async #lookAtNodes(pool) {
    const [nodes, running] = await Promise.all([
      pool ? list(`${at('pools', pool)}/nodes`, {$select: 'id,recentTasks'}) : [],
      list(this.#path, {...PROPERTIES, $filter: "state eq 'running'"}, MOST_RUNNING)]);
    for (const node of nodes) {
      for (const {jobId, taskId, executionInfo} of node.recentTasks || []) {
        if (jobId === this.#job) {
          this.#recent.set(taskId, {id: taskId, node: node.id, slots: 1, begin: executionInfo.startTime,
            end: executionInfo.endTime, state: 'completed', failed: executionInfo.result === 'failure'});
        }
      }
    }
    const now = new Set(running.map((task) => task.id));
    for (const [id, run] of this.#recent) if (run.state === 'running' && !now.has(id)) this.#recent.delete(id);
    for (const task of running) {
      this.#recent.set(task.id, {id: task.id, node: task.nodeInfo.nodeId, slots: task.requiredSlots || 1,
        begin: task.executionInfo.startTime, state: 'running'});
    }
    // The oldest are those that were noted first.
    for (const id of this.#recent.keys()) {
      if (this.#recent.size <= MOST_TASKS) break;
      this.#recent.delete(id);
    }
  }
}
