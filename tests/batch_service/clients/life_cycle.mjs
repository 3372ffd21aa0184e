// A short life cycle with @azure/batch. Takes the account from AZURE_BATCH_ACCOUNT, AZURE_BATCH_ACCESS_KEY and
// AZURE_BATCH_ENDPOINT; ends with exit code 1 when an expectation fails.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';

import { BatchServiceClient, BatchSharedKeyCredentials } from '@azure/batch';

const { AZURE_BATCH_ACCOUNT, AZURE_BATCH_ACCESS_KEY, AZURE_BATCH_ENDPOINT } = process.env;
const client = new BatchServiceClient(
  new BatchSharedKeyCredentials(AZURE_BATCH_ACCOUNT, AZURE_BATCH_ACCESS_KEY), AZURE_BATCH_ENDPOINT,
  { noRetryPolicy: true });
const poolId = `pool-${randomUUID()}`;
const jobId = `job-${randomUUID()}`;

before(async () => {
  await client.pool.add({
    id: poolId,
    vmSize: 'STANDARD_D2S_V5',
    targetDedicatedNodes: 1,
    taskSlotsPerNode: 2,
    virtualMachineConfiguration: {
      imageReference: { publisher: 'canonical', offer: 'ubuntu-24_04-lts', sku: 'server' },
      nodeAgentSKUId: 'batch.node.ubuntu 24.04',
    },
    startTask: { commandLine: 'true', waitForSuccess: true },
  });
  await client.job.add({ id: jobId, poolInfo: { poolId } });
});

after(async () => {
  await client.job.deleteMethod(jobId);
  await until('the job is gone', async () => !(await client.job.list()).some(({ id }) => id === jobId));
  await client.pool.deleteMethod(poolId);
  await until('the pool is gone', async () => !(await client.pool.exists(poolId)).body);
});

test('supported images come in pages', async () => {
  const all = await client.account.listSupportedImages();
  let page = await client.account.listSupportedImages({ accountListSupportedImagesOptions: { maxResults: 3 } });
  const collected = [...page];
  while (page.odatanextLink) {
    page = await client.account.listSupportedImagesNext(page.odatanextLink);
    collected.push(...page);
  }
  assert.deepEqual(collected, [...all]);
  const server = all.find(({ imageReference }) => imageReference.sku === 'server');
  assert.equal(server.osType, 'linux');
  assert.equal(server.verificationType, 'verified');
});

test('pool is echoed and gets its node', async () => {
  assert.equal((await client.pool.exists(poolId)).body, true);
  const pool = await client.pool.get(poolId);
  assert.equal(pool.state, 'active');
  assert.equal(pool.resizeTimeout, 'PT15M');
  assert.ok(pool.creationTime instanceof Date);
  await until('a node is idle', async () => (await client.computeNode.list(poolId)).some(
    ({ state }) => state === 'idle'));
});

test('tasks of a collection run, and tell how they ended', async () => {
  const added = await client.task.addCollection(jobId, [
    { id: 'good', commandLine: "/bin/bash -c 'echo out; echo err >&2; mkdir deep; echo 0123456789 > \"deep/a b.txt\"'" },
    { id: 'bad', commandLine: '/bin/bash -c "exit 3"' },
    { id: 'not an id', commandLine: 'true' },
  ]);
  const byId = Object.fromEntries(added.value.map((result) => [result.taskId, result]));
  assert.deepEqual([byId.good.status, byId.bad.status, byId['not an id'].status],
    ['success', 'success', 'clienterror']);
  assert.equal(byId['not an id'].error.code, 'InvalidPropertyValue');

  const completed = { taskListOptions: { filter: "state eq 'completed'", select: 'id,executionInfo' } };
  await until('both tasks are completed', async () => (await client.task.list(jobId, completed)).length === 2);
  const [bad, good] = await client.task.list(jobId, completed);
  assert.deepEqual([good.id, good.executionInfo.result, good.executionInfo.exitCode], ['good', 'success', 0]);
  assert.deepEqual([bad.id, bad.executionInfo.result, bad.executionInfo.exitCode], ['bad', 'failure', 3]);
  assert.equal(bad.executionInfo.failureInfo.code, 'FailureExitCode');
  const { taskCounts } = await client.job.getTaskCounts(jobId);
  assert.deepEqual([taskCounts.completed, taskCounts.succeeded, taskCounts.failed], [2, 1, 1]);
});

test('files of a task are listed, read whole and in part, and tell their properties', async () => {
  const names = (await client.file.listFromTask(jobId, 'good', { recursive: true })).map(({ name }) => name);
  assert.ok(names.includes('wd/deep/a b.txt'), names.join());
  assert.equal(await text(client.file.getFromTask(jobId, 'good', 'stdout.txt')), 'out\n');
  assert.equal(await text(client.file.getFromTask(jobId, 'good', 'stderr.txt')), 'err\n');
  const part = { fileGetFromTaskOptions: { ocpRange: 'bytes=2-4' } };
  assert.equal(await text(client.file.getFromTask(jobId, 'good', 'wd/deep/a b.txt', part)), '234');
  const properties = await client.file.getPropertiesFromTask(jobId, 'good', 'wd/deep/a b.txt');
  assert.equal(properties.contentLength, 11);
  assert.ok(properties.ocpBatchFileUrl.endsWith('/files/wd/deep/a%20b.txt'), properties.ocpBatchFileUrl);
});

test('entity tags hold writes back', async () => {
  await assert.rejects(client.job.patch(jobId, { priority: 5 }, { jobPatchOptions: { ifMatch: '0x8DBAEB9737D2CB2' } }),
    { statusCode: 412, code: 'ConditionNotMet' });
  const { eTag } = await client.job.get(jobId);
  await client.job.patch(jobId, { priority: 5 }, { jobPatchOptions: { ifMatch: eTag } });
  assert.equal((await client.job.get(jobId)).priority, 5);
});

test('refusals carry code, message and values', async () => {
  await assert.rejects(client.pool.get('none'), (error) => {
    assert.deepEqual([error.statusCode, error.code], [404, 'PoolNotFound']);
    assert.match(error.body.message.value, /^The specified pool does not exist\.\nRequestId:/);
    return true;
  });
  await assert.rejects(client.task.add(jobId, {
    id: 'many', commandLine: 'true', multiInstanceSettings: { numberOfInstances: 2, coordinationCommandLine: 'true' },
  }), (error) => {
    assert.deepEqual([error.statusCode, error.code], [400, 'UnsupportedProperty']);
    assert.equal(error.body.values.find(({ key }) => key === 'PropertyName').value, 'multiInstanceSettings');
    return true;
  });
});

test('running task is terminated, and deleted', async () => {
  await client.task.add(jobId, { id: 'endless', commandLine: 'sleep 600' });
  await until('it runs', async () => (await client.task.get(jobId, 'endless')).state === 'running');
  await client.task.terminate(jobId, 'endless');
  const { state, executionInfo } = await client.task.get(jobId, 'endless');
  assert.deepEqual([state, executionInfo.failureInfo.code], ['completed', 'TaskEnded']);
  await client.task.deleteMethod(jobId, 'endless');
  await assert.rejects(client.task.get(jobId, 'endless'), { statusCode: 404, code: 'TaskNotFound' });
});

async function until(what, condition, seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  while (!await condition()) {
    assert.ok(Date.now() < deadline, `It did not come about in time: ${what}`);
    await pause(20);
  }
}

async function text(answer) {
  let read = '';
  for await (const chunk of (await answer).readableStreamBody) {
    read += chunk;
  }
  return read;
}
