// Elements: made as a view wants them, and put in place of those that are shown, which keep what the reader does there.

const SVG = 'http://www.w3.org/2000/svg';

/** Makes an HTML element: h('a.big', {href}, 'text', [more]). A function is a handler; null and false are left out. */
export function h(name, attributes, ...children) {
  const [tag, ...classes] = name.split('.');
  return filled(document.createElement(tag), classes, attributes, children);
}

/** Makes an SVG element. */
export function svg(name, attributes, ...children) {
  const [tag, ...classes] = name.split('.');
  return filled(document.createElementNS(SVG, tag), classes, attributes, children);
}

function filled(element, classes, attributes, children) {
  if (classes.length) element.setAttribute('class', classes.join(' '));
  element.handlers = {};
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === 'function') element.handlers[name] = element[name] = value;
    else if (name.startsWith('--')) element.style.setProperty(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  // Whatever a child is, it is text or an element of ours: never markup.
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Makes what is shown like what was drawn anew, and touches only what is different. */
export function patch(shown, drawn) {
  if (shown.nodeType !== drawn.nodeType || shown.nodeName !== drawn.nodeName || shown.id !== drawn.id) {
    shown.replaceWith(drawn);
    return;
  }
  if (shown.nodeType === Node.TEXT_NODE) {
    if (shown.nodeValue !== drawn.nodeValue) shown.nodeValue = drawn.nodeValue;
    return;
  }
  patchAttributes(shown, drawn);
  const followed = shown.classList.contains('follow') && shown.scrollTop + shown.clientHeight >= shown.scrollHeight - 4;
  patchChildren(shown, [...drawn.childNodes]);
  if (followed) shown.scrollTop = shown.scrollHeight;
}

function patchAttributes(shown, drawn) {
  for (const {name, value} of drawn.attributes) {
    // A square that the arrow keys have led to stays the one that the Tab key finds. Styles as text are not allowed.
    if (shown.getAttribute(name) === value || name === 'tabindex') continue;
    if (name === 'style') shown.style.cssText = value;
    else shown.setAttribute(name, value);
  }
  for (const {name} of [...shown.attributes]) {
    if (!drawn.hasAttribute(name) && name !== 'open' && name !== 'tabindex') shown.removeAttribute(name);
  }
  for (const name of Object.keys(shown.handlers || {})) shown[name] = null;
  Object.assign(shown, drawn.handlers);
  shown.handlers = drawn.handlers;
}

function patchChildren(shown, drawn) {
  const before = [...shown.childNodes];
  drawn.forEach((child, index) => (before[index] ? patch(before[index], child) : shown.append(child)));
  before.slice(drawn.length).forEach((child) => child.remove());
  // What grows is shown from its end.
  for (const child of drawn) if (child.parentNode === shown && child.classList?.contains('follow')) child.scrollTop = child.scrollHeight;
}
