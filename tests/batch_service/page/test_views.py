"""What a reader sees in each view, in a real browser."""
from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from azure.batch import models

from tests.batch_service.page.site import Site

HOSTILE = '<img src=x onerror=alert(1)>'


def test_an_empty_service_says_what_to_do_next(site: Site) -> None:
    tab = site.open()

    assert 'There is no pool. Run the tutorial' in tab.text() and 'There is no job.' in tab.text()
    assert str(site.service.workspace) in tab.text('#about')
    assert tab.errors == []


def test_the_overview_shows_pools_nodes_and_jobs(site: Site) -> None:
    nodes = site.add_pool(nodes=3, slots=2)
    site.add_job('true', "/bin/bash -c 'exit 3'", 'sleep 60')
    tab = site.open()

    tab.wait_for_text('1 succeeded')
    assert '3 of 3 nodes' in tab.text() and '2 task slots each' in tab.text()
    shown = tab.run('[...document.querySelectorAll(".nodes a")].map((node) => node.title.split(":")[0])')
    assert sorted(shown) == sorted(nodes)
    tab.wait_for('document.querySelector(".nodes .running")?.title.includes("1 of 2 slots")')
    assert '1 failed' in tab.text() and '1 running' in tab.text()
    assert tab.errors == []


def test_a_pool_without_nodes_says_why(start_site: Callable[..., Site]) -> None:
    small = start_site('--core-quota', '2')
    small.client.pool.add(models.PoolAddParameter(
        id='large', vm_size='STANDARD_D2S_V5', target_dedicated_nodes=3,
        virtual_machine_configuration=models.VirtualMachineConfiguration(
            image_reference=models.ImageReference(publisher='canonical', offer='ubuntu-24_04-lts', sku='server'),
            node_agent_sku_id='batch.node.ubuntu 24.04')))
    tab = small.open()

    tab.wait_for_text('AccountCoreQuotaReached')
    assert '1 of 3 nodes' in tab.text()


def test_a_thousand_nodes_are_a_map_for_the_keyboard_too(site: Site) -> None:
    site.add_pool(nodes=1000)
    tab = site.open()
    tab.wait_for('document.querySelectorAll(".nodes a").length === 1000')

    tab.run('document.querySelector(".nodes a").focus()')
    tab.press('ArrowRight', 'ArrowDown')
    place = tab.run('[...document.querySelectorAll(".nodes a")].indexOf(document.activeElement)')
    columns = tab.run('getComputedStyle(document.querySelector(".nodes")).gridTemplateColumns.split(" ").length')
    assert place == columns + 1
    href = tab.run('document.activeElement.pathname')
    tab.press('Enter')
    tab.wait_for(f'location.pathname === {json.dumps(href)} && document.querySelector("h1")')
    assert tab.errors == []


def test_a_job_shows_its_tasks_in_a_table_and_a_timeline(site: Site) -> None:
    site.add_pool(nodes=1, slots=2)
    site.add_job('sleep 0.5', "/bin/bash -c 'exit 3'", 'sleep 0.3', 'true')
    site.wait_for_tasks()
    tab = site.open('/jobs/job')

    tab.wait_for('document.querySelectorAll("tbody tr").length === 4')
    rows = tab.run('[...document.querySelectorAll("tbody tr")].map('
                   '(row) => [...row.cells].map((cell) => cell.innerText))')
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ('task0', 'succeeded', '0'), ('task1', 'failed', '3'), ('task2', 'succeeded', '0'), ('task3', 'succeeded', '0')]
    ran = site.client.task.get('job', 'task0').execution_info
    seconds = (ran.end_time - ran.start_time).total_seconds()
    assert float(rows[0][4].removesuffix(' s')) == pytest.approx(seconds, abs=0.06)
    assert tab.run('document.querySelectorAll(".run.succeeded").length') == 3
    assert tab.run('document.querySelectorAll(".run.failed").length') == 1
    slots = tab.run('[...document.querySelectorAll(".timeline .label")].map((label) => label.textContent)')
    assert [text.rpartition(' ')[2] for text in slots if 'slot' in text] == ['1', '2']
    assert any(text.startswith('waiting, at most ') for text in slots)
    # Two of the four had to wait for a slot: no two bars of one row overlap.
    assert tab.run('''[...document.querySelectorAll('.timeline svg > g')].every((row) => {
        const bars = [...row.querySelectorAll('.run')].map(
            (bar) => [+bar.getAttribute('x'), +bar.getAttribute('width')]);
        bars.sort(([one], [other]) => one - other);
        return bars.every(([x], index) => !index || bars[index - 1][0] + bars[index - 1][1] <= x + 1.3);
    })''')
    assert tab.errors == []


def test_the_table_is_filtered_and_sorted_and_the_address_says_how(site: Site) -> None:
    site.add_pool(slots=4)
    site.add_job('sleep 0.4', "/bin/bash -c 'exit 3'", 'sleep 0.1', *['true'] * 8)
    site.wait_for_tasks()
    tab = site.open('/jobs/job?state=failed')
    ids = '[...document.querySelectorAll("tbody th")].map((cell) => cell.innerText)'
    assert tab.run(ids) == ['task1']

    tab.run('document.querySelector("select").value = ""; '
            'document.querySelector("select").dispatchEvent(new Event("change"))')
    tab.wait_for(f'{ids}.length === 11')
    assert 'state' not in tab.url
    tab.click('thead th:nth-child(5) button')
    tab.wait_for(f'document.querySelector("[aria-sort=ascending]") && {ids}[10] === "task0"')
    tab.click('thead th:nth-child(5) button')
    tab.wait_for(f'document.querySelector("[aria-sort=descending]") && {ids}[0] === "task0"')
    tab.click('thead th:nth-child(1) button')
    tab.wait_for(f'{ids}.indexOf("task10") === 10')

    tab.run('document.querySelector("input").value = "task1"; '
            'document.querySelector("input").dispatchEvent(new Event("change"))')
    tab.wait_for(f'{ids}.join() === "task1,task10"')
    tab.reload()
    tab.wait_for(f'{ids}.join() === "task1,task10"')
    assert tab.run('document.querySelector("input").value') == 'task1'
    tab.run('history.go(-1)')
    tab.wait_for(f'{ids}.length === 11')
    assert tab.errors == []


def test_of_very_many_tasks_a_page_is_shown_at_a_time(site: Site) -> None:
    site.client.job.add(models.JobAddParameter(id='job', pool_info=models.PoolInformation(pool_id='none')))
    site.client.task.add_collection('job', [
        models.TaskAddParameter(id=f'task{number:05}', command_line='true') for number in range(2100)])
    tab = site.open('/jobs/job')
    ids = '[...document.querySelectorAll("tbody th")].map((cell) => cell.innerText)'
    tab.wait_for(f'{ids}.length === 100')
    assert '2,100 active' in tab.text()

    tab.click('.pages button')
    tab.wait_for(f'{ids}[0] === "task00100"')
    tab.reload()
    tab.wait_for(f'{ids}[0] === "task00100"')
    tab.go(f'{site.service.url}/page/jobs/job?id=task0205')
    tab.wait_for(f'{ids}.join() === {json.dumps(",".join(f"task{number:05}" for number in range(2050, 2060)))}')
    assert tab.errors == []


def test_of_very_many_tasks_the_timeline_shows_those_that_run_and_the_last_of_each_node(site: Site) -> None:
    site.add_pool()
    site.add_job('true', "/bin/bash -c 'exit 3'")
    site.wait_for_tasks()
    site.client.task.add('job', models.TaskAddParameter(id='long', command_line='sleep 600'))
    site.client.task.add_collection('job', [
        models.TaskAddParameter(id=f'later{number:05}', command_line='true') for number in range(2_100)])
    tab = site.open('/jobs/job')

    for state in ('running', 'succeeded', 'failed'):
        tab.wait_for(f'document.querySelectorAll(".run.{state}").length === 1')
    site.client.job.disable('job', 'requeue')
    tab.wait_for('!document.querySelector(".run.running")')
    assert tab.run('document.querySelectorAll(".run").length') == 2
    assert tab.errors == []


def test_a_task_shows_why_it_failed_and_what_it_wrote(site: Site) -> None:
    site.add_pool()
    site.add_job()
    site.client.task.add('job', models.TaskAddParameter(
        id='task', command_line=("/bin/bash -c 'echo to the reader; echo in trouble >&2; mkdir d; echo x > d/y.txt; "
                                 "exit 3'"),
        environment_settings=[models.EnvironmentSetting(name='PLACE', value='https://a/b?sv=1&sig=c2VjcmV0&sp=w')]))
    site.wait_for_tasks()
    tab = site.open('/jobs/job/tasks/task')

    tab.wait_for_text('in trouble')
    text = tab.text()
    assert 'FailureExitCode' in text and 'to the reader' in text and 'exit 3' in text
    assert 'https://a/b?sv=1&sig=...&sp=w' in tab.run('document.body.textContent')
    assert 'c2VjcmV0' not in tab.run('document.documentElement.outerHTML')
    tab.run('[...document.querySelectorAll(".link")].find((one) => one.innerText.includes("y.txt")).click()')
    tab.wait_for('[...document.querySelectorAll("pre")].some((one) => one.innerText.trim() === "x")')
    save = tab.run('document.querySelector("a[download]").href')
    assert save.endswith('/page/api/jobs/job/tasks/task/files/stdout.txt')
    assert tab.errors == []


def test_output_grows_as_it_is_written(site: Site) -> None:
    site.add_pool()
    site.add_job("/bin/bash -c 'for ((i = 0; i < 600; i++)); do echo line $i; sleep 0.1; done'")
    tab = site.open('/jobs/job/tasks/task0')

    tab.wait_for_text('line 1\n')
    tab.run('getSelection().selectAllChildren(document.querySelector("h1"))')
    tab.wait_for_text('line 30\n')
    # The end is in sight, and what the reader has selected stays so.
    assert tab.run('(({scrollTop, clientHeight, scrollHeight}) => scrollTop + clientHeight >= scrollHeight - 4)('
                   'document.querySelector(".follow"))')
    assert 'task0' in tab.run('String(getSelection())')
    assert tab.errors == []


def test_of_a_large_file_the_end_is_shown(site: Site) -> None:
    site.add_pool()
    site.add_job("/bin/bash -c 'seq 1000000'")
    site.wait_for_tasks()
    tab = site.open('/jobs/job/tasks/task0')

    tab.wait_for_text('\n1000000\n')
    assert 'The last 262 KB:' in tab.text() and '6.9 MB, save' in tab.text()
    assert tab.bytes_loaded < 1_000_000


def test_a_node_shows_its_start_task_and_its_tasks(site: Site) -> None:
    [node] = site.add_pool(start_task=models.StartTask(command_line="/bin/bash -c 'echo getting ready'"))
    site.add_job('true')
    site.wait_for_tasks()
    tab = site.open(f'/pools/pool/nodes/{node}')

    tab.wait_for_text('getting ready')
    tab.wait_for_text('job / task0')
    assert 'idle' in tab.text('h1')
    site.add_job('sleep 60', job_id='other')
    tab.wait_for_text('other / task0')
    tab.wait_for('document.querySelector(".tasks tr").innerText.includes("running")')
    tab.click('.tasks a')
    tab.wait_for('location.pathname === "/page/jobs/other/tasks/task0"')
    assert tab.errors == []


def test_a_start_task_that_failed_says_why(site: Site) -> None:
    [node] = site.add_pool(start_task=models.StartTask(
        command_line="/bin/bash -c 'echo no such package >&2; exit 7'", wait_for_success=True))
    tab = site.open(f'/pools/pool/nodes/{node}')

    tab.wait_for_text('no such package')
    assert 'start task failed' in tab.text('h1') and 'FailureExitCode' in tab.text()


@pytest.mark.parametrize('path, text', [
    ('/jobs/nothing', 'The specified job does not exist. It may have been deleted.'),
    ('/jobs/%zz', 'The specified job does not exist.'),
    ('/jobs/nothing/tasks/task', 'The specified job does not exist.'),
    ('/pools/nothing/nodes/node', 'The specified pool does not exist.'),
    ('/anything', 'There is nothing at this address.')])
def test_what_is_not_there_is_told(site: Site, path: str, text: str) -> None:
    tab = site.open(path)

    tab.wait_for_text(text)
    tab.click('#view .empty a')
    tab.wait_for_text('There is no pool.')


def test_what_users_write_is_text(site: Site) -> None:
    odd = 'a' * 63 + '_'
    site.add_pool(odd)
    site.client.job.add(models.JobAddParameter(
        id='job', pool_info=models.PoolInformation(pool_id=odd),
        metadata=[models.MetadataItem(name=HOSTILE, value='\u202egpj.exe')]))
    site.client.task.add('job', models.TaskAddParameter(
        id='task', command_line=f"/bin/bash -c 'echo \"{HOSTILE}\" | tee \"{HOSTILE.replace('/', '')}.html\"'",
        environment_settings=[models.EnvironmentSetting(name=HOSTILE, value='</pre><script>alert(1)</script>')]))
    site.wait_for_tasks()
    for path in ('/', '/jobs/job', '/jobs/job/tasks/task'):
        tab = site.open(path)
        if path.endswith('task'):
            tab.wait_for_text(f'{HOSTILE}.html')
            tab.run('[...document.querySelectorAll(".link")].at(-1).click()')
        assert tab.run('document.querySelectorAll("img, #view script").length') == 0
        assert tab.errors == []


def test_a_change_comes_to_the_screen_while_the_page_waits_for_it(site: Site) -> None:
    site.add_pool()
    tab = site.open()
    before = len(tab.requests)

    site.add_job('true')
    # One that waits in vain is answered after 25 seconds.
    tab.wait_for_text('1 succeeded', seconds=15)
    assert len(tab.requests) > before


def test_one_request_waits_for_changes_whatever_is_looked_at(site: Site) -> None:
    site.add_pool()
    site.add_job("/bin/bash -c 'for ((i = 0; i < 600; i++)); do echo line $i; sleep 0.1; done'")
    tab = site.open()
    for _ in range(5):
        for path, heading in (('/page/jobs/job', 'job'), ('/page/jobs/job/tasks/task0', 'task0')):
            tab.run(f'history.pushState(null, "", "{path}"); dispatchEvent(new Event("page:address"))')
            tab.wait_for(f'document.querySelector("h1")?.innerText.startsWith("{heading}")')

    tab.wait_for_text('line 80\n')
    # A browser has six connections to a host, and what waits keeps one.
    assert sum('/page/changes' in url for url in tab.requests) < 10
    site.client.task.terminate('job', 'task0')
    tab.wait_for('document.querySelector("h1").innerText.includes("failed")', seconds=5)
    assert tab.errors == []


def test_a_page_on_which_nothing_happens_asks_for_nothing(site: Site) -> None:
    site.add_pool()
    site.add_job('true')
    site.client.job.patch('job', models.JobPatchParameter(on_all_tasks_complete='terminatejob'))
    tab = site.open()
    tab.wait_for_text('completed')
    tab.wait_for('new Promise((done) => setTimeout(done, 2000, true))')
    before = len(tab.requests)
    tab.wait_for('new Promise((done) => setTimeout(done, 3000, true))')

    assert len(tab.requests) - before <= 1


def test_a_service_that_ends_is_told_and_one_that_is_busy_waited_for(start_site: Callable[..., Site]) -> None:
    site = start_site('--busy-share', '0.3')
    tab = site.open()
    tab.wait_for_text('There is no pool.')
    tab.wait_for('document.querySelector("#trouble").hidden')

    site.service.stop()
    tab.wait_for_text('The service does not answer')
    assert 'There is no pool.' in tab.text(), 'what was shown stays'


def test_moments_are_in_the_zone_of_the_reader(site: Site) -> None:
    site.add_job(pool_id='none')
    added = {zone: site.open('/jobs/job', timezone=zone).text('dl div:nth-child(2) dd')
             for zone in ('Asia/Tokyo', 'America/New_York')}

    assert '' not in added.values() and added['Asia/Tokyo'] != added['America/New_York']


def test_moments_are_ordered_whatever_zeros_their_fractions_have_lost(site: Site) -> None:
    ordered = [f'2026-01-31T{time}Z' for time in ('08:00:00', '08:00:00.25', '08:00:00.5', '08:00:00.51', '08:00:01')]

    tab = site.open()
    assert tab.run(f'''import("/page/static/format.js").then(({{byMoment}}) =>
        {ordered[::-1]}.sort(byMoment))''') == ordered


def test_it_reads_on_a_narrow_window_and_in_the_dark(site: Site) -> None:
    site.add_pool(nodes=40)
    site.add_job('true', "/bin/bash -c 'exit 1'")
    site.wait_for_tasks()
    for path in ('/', '/jobs/job', '/jobs/job/tasks/task1'):
        tab = site.open(path, width=360, height=640, dark=True)
        assert tab.run('document.documentElement.scrollWidth') <= 360
        assert tab.run('getComputedStyle(document.body).backgroundColor') == 'rgb(20, 24, 29)'


def test_the_tab_key_leads_to_the_content_and_to_every_control(site: Site) -> None:
    site.add_pool()
    site.add_job('true')
    site.wait_for_tasks()
    tab = site.open('/jobs/job')
    tab.wait_for('document.querySelector("tbody tr")')

    reached = []
    for _ in range(20):
        tab.press('Tab')
        reached.append(tab.run('(document.activeElement.innerText || document.activeElement.ariaLabel '
                               '|| document.activeElement.tagName).trim()'))
    assert reached[0] == 'To the content' and 'Azure Batch on this machine' in reached
    assert {'Task', 'Took', 'task0', 'INPUT'} <= set(reached)
