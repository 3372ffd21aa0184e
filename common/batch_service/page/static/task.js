// One task: what it is told to do, what has become of it, and what it writes.

import {at, get} from './api.js';
import {h} from './dom.js';
import {count, duration, limit, moment, outcome, seconds, withoutSecrets} from './format.js';
import {Files, TextFile} from './files.js';
import {code, facts, failure, nodeLink, pairs, state} from './parts.js';

export class Task {
  #job;

  #id;

  #task = {};

  #output;

  #files;

  constructor(job, id) {
    [this.#job, this.#id] = [job, id];
    this.path = [[job, `/page${at('jobs', job)}`], [id]];
    const owner = at('jobs', job, 'tasks', id);
    this.#output = ['stdout.txt', 'stderr.txt'].map((name) => new TextFile(owner, name));
    this.#files = new Files(owner);
  }

  async look() {
    this.#task = await get(at('jobs', this.#job, 'tasks', this.#id));
    if (this.#task.nodeInfo) await Promise.all([...this.#output, this.#files].map((one) => one.look()));
  }

  /** What a running task writes changes no document. */
  looksAgain() { return this.#task.state === 'running'; }

  ticks() { return false; }

  draw() {
    const task = this.#task;
    const info = task.executionInfo || {};
    const node = task.nodeInfo;
    return [
      h('h1', {}, this.#id, ' ', state(outcome(task))),
      failure(info.failureInfo),
      facts([['exit code', info.exitCode], ['added', moment(task.creationTime)],
        ['waited', info.startTime ? duration(seconds(task.creationTime, info.startTime)) : ''],
        ['began', moment(info.startTime)], ['ended', moment(info.endTime)],
        ['took', info.startTime ? duration(seconds(info.startTime, info.endTime)) : ''],
        ['node', node ? nodeLink(node) : ''],
        ['tried again', info.retryCount ? count(info.retryCount, 'time') : ''],
        ['put back', info.requeueCount ? count(info.requeueCount, 'time') : ''],
        ['task slots', task.requiredSlots > 1 ? task.requiredSlots : ''], ...constraints(task.constraints || {}),
        ['waits for', dependencies(task.dependsOn)]]),
      h('h2', {}, 'Command line'), code(task.commandLine),
      pairs((task.resourceFiles || []).map((file) => ({name: file.filePath || '', value: file.httpUrl
        || file.storageContainerUrl || file.autoStorageContainerName})), 'resource file'),
      pairs((task.outputFiles || []).map((file) => ({name: file.filePattern,
        value: file.destination?.container?.containerUrl})), 'output file'),
      pairs(task.environmentSettings, 'environment setting'),
      node ? [h('h2', {}, 'Output'), this.#output.map((file) => file.draw()), h('h2', {}, 'Files'), this.#files.draw()]
        : h('p.empty', {}, 'It has not run on a node yet.'),
    ];
  }
}

function constraints({maxWallClockTime, maxTaskRetryCount, retentionTime}) {
  return [['may take', limit(maxWallClockTime)], ['may be tried again', maxTaskRetryCount ? count(maxTaskRetryCount, 'time') : ''],
    ['files are kept for', limit(retentionTime)]];
}

function dependencies(on) {
  return on ? withoutSecrets([...(on.taskIds || []), ...(on.taskIdRanges || []).map(({start, end}) => `${start} to ${end}`)]
    .join(', ')) : '';
}
