// Parts that several views have: states, bars, facts, tables of times.

import {at} from './api.js';
import {h} from './dom.js';
import {count, inWords, number, short, withoutSecrets} from './format.js';

export const state = (name) => h(`span.state.${name}`, {}, inWords(name));

export const nodeLink = ({poolId, nodeId}) => h('a.id', {href: `/page${at('pools', poolId, 'nodes', nodeId)}`, title: nodeId},
  short(nodeId));

/** Names and values, those without a value left out. */
export function facts(pairs) {
  return h('dl', {}, pairs.filter(([, value]) => value !== '' && value !== null && value !== undefined).map(
    ([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}

/** The tasks of a job by what has become of them, as a bar and in words; job is the job's address. */
export function taskBar(counts, job) {
  const parts = [['succeeded', counts.succeeded], ['failed', counts.failed], ['running', counts.running],
    ['active', counts.active]].filter(([, value]) => value);
  const total = parts.reduce((sum, [, value]) => sum + value, 0);
  return [
    h('div.bar', {role: 'img', 'aria-label': parts.map(([name, value]) => `${value} ${name}`).join(', ') || 'no tasks'},
      parts.map(([name, value]) => h(`span.${name}`, {'--share': value / total}))),
    h('p.legend', {}, total ? parts.map(([name, value]) => h('a', {href: `${job}?state=${name}`},
      h(`i.${name}`, {}), `${number(value)} ${name}`)) : 'no tasks yet'),
  ];
}

/** A failure of a task, of a start task or of Batch, in words. */
export function failure(information) {
  if (!information) return null;
  return h('div.failure', {role: 'note'},
    h('strong', {}, `${information.code}: `), withoutSecrets(information.message || ''),
    (information.details || information.values || []).map(
      ({name, key, value}) => h('p', {}, `${name || key}: ${withoutSecrets(String(value))}`)));
}

/** A long text of a user's that is a program or a setting. */
export const code = (text) => h('pre.code', {tabindex: '0'}, withoutSecrets(text));

export const pairs = (items, word) => (items && items.length ? h('details', {}, h('summary', {}, count(items.length, word)),
  h('table', {}, h('tbody', {}, items.map(({name, value}) => h('tr', {}, h('th', {scope: 'row'}, name),
    h('td', {}, withoutSecrets(value || ''))))))) : null);
