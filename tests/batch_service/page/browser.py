"""A browser for the tests: Debian's Chromium without a window, driven through the DevTools protocol over two pipes.

https://chromedevtools.github.io/devtools-protocol/
"""
from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_SECONDS = 30.0
_FLAGS = ('--headless=new', '--remote-debugging-pipe', '--no-sandbox', '--disable-gpu', '--no-first-run',
          '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update', '--disable-sync',
          '--disable-extensions', '--disable-default-apps', '--disable-breakpad', '--no-proxy-server')
_KEYS = {'Tab': 9, 'Enter': 13, 'Escape': 27, 'ArrowLeft': 37, 'ArrowUp': 38, 'ArrowRight': 39, 'ArrowDown': 40}


def find_chromium() -> str | None:
    """Returns where the browser is, rather the one that never has a window; None if there is none."""
    names = ('chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome')
    return next(filter(None, map(shutil.which, names)), None)


class BrowserError(Exception):
    """The browser has ended, has not answered, or has refused."""


class Browser:
    """Chromium, until close().

    Args:
        directory: For its profile.
    """

    def __init__(self, directory: Path) -> None:
        near_there, self._input = os.pipe()
        output, near_here = os.pipe()
        # It reads from descriptor 3 and writes to 4, which here may be something else.
        there, here = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (near_there, near_here))
        self._process = subprocess.Popen(
            ['bash', '-c', f'exec "$@" 3<&{there} 4>&{here} {there}<&- {here}>&-', 'bash', find_chromium(), *_FLAGS,
             f'--user-data-dir={directory}', 'about:blank'],
            pass_fds=(there, here), start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, 'HOME': str(directory)})
        for end in (near_there, near_here, there, here):
            os.close(end)
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self._sending = threading.Lock()
        self._reader = threading.Thread(target=self._read, args=(output,), daemon=True)
        self._reader.start()

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False,
             timezone: str | None = None, beside: Tab | None = None) -> Tab:
        """Opens an address in a tab, with cookies of its own or those of another tab; waits until it is loaded."""
        context = beside.context if beside else self.call('Target.createBrowserContext')['browserContextId']
        target = self.call('Target.createTarget', url='about:blank', browserContextId=context)['targetId']
        session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        tab = self._tabs[session] = Tab(self, session, context)
        for domain in ('Page', 'Runtime', 'Network', 'Log'):
            tab.call(f'{domain}.enable')
        tab.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)
        tab.call('Emulation.setEmulatedMedia', features=[
            {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])
        if timezone:
            tab.call('Emulation.setTimezoneOverride', timezoneId=timezone)
        tab.go(url)
        return tab

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol, and returns its result; raises BrowserError."""
        number = next(self._numbers)
        answer = self._answers[number] = queue.SimpleQueue()
        message = {'id': number, 'method': method, 'params': parameters, **({'sessionId': session} if session else {})}
        with self._sending:
            unsent = memoryview(json.dumps(message).encode() + b'\0')
            while unsent:
                unsent = unsent[os.write(self._input, unsent):]
        try:
            answered = answer.get(timeout=_SECONDS)
        except queue.Empty:
            raise BrowserError(f'{method} has had no answer') from None
        if 'error' in answered:
            raise BrowserError(f'{method}: {answered["error"]["message"]}')
        return answered['result']

    def _read(self, output: int) -> None:
        unread = bytearray()
        with open(output, 'rb', buffering=0) as messages:
            while part := messages.read(1 << 20):
                unread += part
                *whole, unread = unread.split(b'\0')
                for message in map(json.loads, whole):
                    if 'id' in message:
                        self._answers.pop(message['id']).put(message)
                    elif tab := self._tabs.get(message.get('sessionId', '')):
                        tab.take(message['method'], message['params'])

    def close_tab(self, session: str) -> None:
        del self._tabs[session]
        self.call('Page.close', session)

    def close_tabs(self) -> None:
        """Closes all tabs: a page goes on looking for its service, even if that has ended."""
        for session in list(self._tabs):
            self.close_tab(session)

    def close(self) -> None:
        # It removes a directory of its own in /tmp, and ends processes that are in no group of ours.
        with suppress(BrowserError, OSError, subprocess.TimeoutExpired):
            self.call('Browser.close')
            self._process.wait(_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        os.close(self._input)


class Tab:
    """One page.

    Attributes:
        errors: What its scripts have failed with or warned of, what its policy has forbidden, what could not be loaded.
        requests: The addresses of its requests.
        bytes_loaded: Of all answers, with their headers.
        status: Of the document; 0 before there is one.
        context: Whose cookies it has.
    """

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = threading.Event()
        self.context = context
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.bytes_loaded = 0
        self.status = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def take(self, event: str, values: dict[str, Any]) -> None:
        """Notes an event of the protocol."""
        if event == 'Runtime.exceptionThrown':
            details = values['exceptionDetails']
            self.errors.append(details.get('exception', {}).get('description') or details['text'])
        elif event == 'Runtime.consoleAPICalled' and values['type'] in ('error', 'warning'):
            self.errors += [str(argument.get('value', argument.get('description'))) for argument in values['args']]
        elif event == 'Log.entryAdded' and values['entry']['level'] == 'error':
            self.errors.append(f'{values["entry"]["text"]} {values["entry"].get("url", "")}')
        elif event == 'Network.requestWillBeSent':
            self.requests.append(values['request']['url'])
        elif event == 'Network.responseReceived' and values['type'] == 'Document':
            self.status = values['response']['status']
        elif event == 'Network.loadingFinished':
            self.bytes_loaded += int(values['encodedDataLength'])
        elif event == 'Page.loadEventFired':
            self._loaded.set()

    def go(self, url: str) -> None:
        """Goes to an address, and waits until it is loaded; raises BrowserError."""
        self._loaded.clear()
        if error := self.call('Page.navigate', url=url).get('errorText'):
            raise BrowserError(f'{url}: {error}')
        self._wait_for_load(url)

    def reload(self) -> None:
        self._loaded.clear()
        self.call('Page.reload')
        self._wait_for_load('reload')

    def _wait_for_load(self, what: str) -> None:
        if not self._loaded.wait(_SECONDS):
            raise BrowserError(f'{what} has not been loaded')

    @property
    def url(self) -> str:
        return self.run('location.href')

    def run(self, script: str) -> Any:
        """Runs a script, and returns what it is or what its promise brings; raises BrowserError with its exception."""
        result = self.call('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True)
        if 'exceptionDetails' in result:
            raise BrowserError(result['exceptionDetails'].get('exception', {}).get('description', script))
        return result['result'].get('value')

    def text(self, selector: str = 'body') -> str:
        """Returns the text of an element as a reader sees it."""
        return self.run(f'document.querySelector({json.dumps(selector)})?.innerText ?? ""')

    def wait_for(self, script: str, seconds: float = 30.0) -> Any:
        """Runs a script until its value is true, and returns that; an AssertionError shows what there is instead."""
        end = time.monotonic() + seconds
        while True:
            with suppress(BrowserError):  # while another document comes
                if value := self.run(script):
                    return value
            assert time.monotonic() < end, f'{script} does not come true in\n{self.text()}\n{self.errors}'
            time.sleep(0.02)

    def wait_for_text(self, text: str, seconds: float = 30.0) -> None:
        self.wait_for(f'document.body?.innerText.includes({json.dumps(text)})', seconds)

    def press(self, *keys: str) -> None:
        """Presses keys: by the names of the protocol, or characters."""
        for key in keys:
            code = {'key': key, 'windowsVirtualKeyCode': _KEYS.get(key, 0)}
            text = {'text': '\r'} if key == 'Enter' else {} if key in _KEYS else {'text': key}
            self.call('Input.dispatchKeyEvent', type='keyDown', **code, **text)
            self.call('Input.dispatchKeyEvent', type='keyUp', **code)

    def click(self, selector: str) -> None:
        """Clicks on the middle of an element."""
        x, y = self.wait_for(f'''(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element?.scrollIntoView({{block: 'center', behavior: 'instant'}});
            const box = element?.getBoundingClientRect();
            return box && [box.x + box.width / 2, box.y + box.height / 2];
        }})()''')
        for kind in ('mousePressed', 'mouseReleased'):
            self.call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Saves a picture (PNG) of what is seen."""
        path.write_bytes(base64.b64decode(self.call('Page.captureScreenshot')['data']))

    def close(self) -> None:
        self._browser.close_tab(self._session)
