// Keeps what is shown fresh. Without it everything is there as well; it only grows old.
//
// /events tells when this page has changed; then it is fetched again, and of the elements marked data-live="NAME" (one
// of each NAME) what differs is changed in place. Everything else stays: focus, scroll, selection, open details.

/** Milliseconds. */
const RETRY = 1000, LONGEST_RETRY = 30_000, FOLLOW = 5000, OLDEST = 60_000
// The daemon says every 15 s that it is there. One that hangs, or a network that loses everything, ends no stream.
const SILENCE = 40_000, PATIENCE = 20_000

/** @typedef {(text: string) => string} ToHtml */
/** @type {{createPolicy(name: string, rules: {createHTML: ToHtml}): {createHTML: ToHtml}} | undefined} */
const trustedTypes = Reflect.get(window, 'trustedTypes')
/** Text becomes a document of its own, in which no script runs. @type {{createHTML: ToHtml}} */
const policy = trustedTypes?.createPolicy('page', {createHTML: text => text}) ?? {createHTML: text => text}

const time = document.getElementById('updated'), connection = document.getElementById('connection')
let since = time?.dataset.since ?? '', updated = Date.now(), heard = updated, awaySince = 0, failures = 0, isBusy = false, isDue = false, isLeaving = false
/** @type {EventSource | undefined} */ let source
/** @type {number | undefined} */ let retry

// ---- the stream

function connect() {
  isLeaving = false
  disconnect()
  heard = Date.now()
  source = new EventSource(`/events?${new URLSearchParams({page: location.pathname, since})}`)
  source.addEventListener('alive', () => { heard = Date.now() })
  source.onopen = () => {
    heard = Date.now()
    if (failures > 1) refresh()
    awaySince = failures = 0
    tell()
  }
  source.onmessage = event => {
    heard = Date.now()
    since = event.lastEventId
    refresh()
  }
  source.onerror = () => {
    // Answered, but not with a stream: a browser gives up for ever then, so it is we who try again. Logged out, maybe.
    if (source?.readyState === EventSource.CLOSED) refresh()
    tryAgain(Date.now())
  }
}

/** @param {number} lost */
function tryAgain(lost) {
  disconnect()
  awaySince ||= lost
  retry = setTimeout(connect, Math.min(LONGEST_RETRY, RETRY * 2 ** failures++) * (0.5 + Math.random() / 2))
  tell()
}

function disconnect() {
  clearTimeout(retry)
  source?.close()
}

/** @param {number} at */
const utc = at => `${new Date(at).toISOString().slice(0, 19).replace('T', ' ')} UTC`

/** Now and then a stream ends and is opened again at once, which is nobody's business. */
function tell() {
  const text = failures > 1 ? `Not connected since ${utc(awaySince)}; trying again. This is what was known at ${utc(updated)}.` : ''
  if (connection && connection.textContent !== text) connection.textContent = text
}

// ---- the page

/** Once at a time; what comes up meanwhile is once more. */
async function refresh() {
  isDue = isBusy
  if (isBusy || isLeaving) return
  isBusy = true
  try {
    const answer = await fetch(location.href, {headers: {Accept: 'text/html'}, signal: AbortSignal.timeout(PATIENCE)})
    // To a login, most likely.
    if (answer.redirected || answer.status === 401) return reload()
    if (answer.headers.get('content-type')?.startsWith('text/html')) show(new DOMParser().parseFromString(policy.createHTML(await answer.text()), 'text/html'))
  } catch {
    // Not reachable: the stream says so.
  } finally {
    isBusy = false
  }
  if (isDue) refresh()
}

function reload() {
  if (!isLeaving) location.reload()
}

/** @param {ParentNode} where */
const liveParts = where => new Map([...where.querySelectorAll('[data-live]')].map(one => [one.getAttribute('data-live'), one]))

/** @param {Document} next */
function show(next) {
  const style = (/** @type {Document} */ where) => where.querySelector('link[rel=stylesheet]')?.getAttribute('href')
  if (style(next) !== style(document)) return reload()
  prepare(next)
  const ends = [...document.querySelectorAll('[data-follow]')].filter(isAtEnd)
  const known = liveParts(document), fresh = liveParts(next)
  const isSame = next.title === document.title && [...known.keys(), ...fresh.keys()].every(name => known.has(name) && fresh.has(name))
  const pairs = isSame ? [...fresh].map(([name, one]) => [known.get(name), one]) : [[document.querySelector('main'), next.querySelector('main')]]
  for (const [old, one] of pairs) if (old && one && !isSelected(old)) change(old, one)
  document.title = next.title
  ends.forEach(toEnd)
  updated = Date.now()
  if (time) time.textContent = utc(updated)
  time?.setAttribute('datetime', new Date(updated).toISOString())
  tell()
}

/** Makes `old` the same as `next`, and touches only what differs. @param {Element} old @param {Element} next */
function change(old, next) {
  if (old.isEqualNode(next)) return
  const keeps = (/** @type {string} */ name) => name === 'open' && old.matches('details')
  for (const {name} of [...old.attributes]) if (!next.hasAttribute(name) && !keeps(name)) old.removeAttribute(name)
  for (const {name, value} of next.attributes) if (old.getAttribute(name) !== value && !keeps(name)) old.setAttribute(name, value)
  const wanted = [...next.childNodes]
  for (const [place, child] of wanted.entries()) {
    const there = old.childNodes[place] ?? null
    // What has an id is the same wherever it is now.
    const same = child instanceof Element && child.id ? [...old.children].find(one => one.id === child.id) : there
    if (!same || !isAlike(same, child)) old.insertBefore(child, there)
    else {
      if (same !== there) old.insertBefore(same, there)
      if (same instanceof Element && child instanceof Element) change(same, child)
      else if (same.nodeValue !== child.nodeValue) same.nodeValue = child.nodeValue
    }
  }
  while (old.childNodes.length > wanted.length) old.lastChild?.remove()
}

/** @param {Node} one @param {Node} other */
const isAlike = (one, other) => one.nodeName === other.nodeName && (!(one instanceof Element && other instanceof Element) || one.id === other.id)

/** Has somebody marked text in it, to copy it? @param {Element} part */
function isSelected(part) {
  const selection = getSelection()
  return !!selection && !selection.isCollapsed && selection.containsNode(part, true)
}

/** @param {Element} one */
const isAtEnd = one => one.scrollTop + one.clientHeight >= one.scrollHeight - 4
/** @param {Element} one */
const toEnd = one => { one.scrollTop = one.scrollHeight }

/** Buttons that copy. Their words are in the style sheet: to those who read without script nothing is missing. @param {Document} where */
function prepare(where) {
  for (const pre of where.querySelectorAll('pre[data-copy]')) {
    const button = where.createElement('button')
    button.type = 'button'
    button.className = 'copy'
    button.setAttribute('aria-label', `Copy: ${pre.getAttribute('aria-label') ?? 'text'}`)
    pre.prepend(button)
  }
}

document.addEventListener('click', async event => {
  const button = event.target instanceof Element ? event.target.closest('button.copy') : null
  if (!button?.parentElement) return
  getSelection()?.selectAllChildren(button.parentElement)
  // Elsewhere than on this host, browsers copy only over HTTPS; then the text is marked, at least.
  await navigator.clipboard?.writeText((button.parentElement.textContent ?? '').trim())
  if (navigator.clipboard) getSelection()?.removeAllRanges()
  button.toggleAttribute('data-done', !!navigator.clipboard)
})

prepare(document)
document.querySelectorAll('[data-follow]').forEach(toEnd)
if (document.querySelector('main [data-live]')) {
  // Browsers open few connections to one address: pages that nobody looks at hold none.
  const turn = () => document.hidden ? disconnect() : connect()
  document.addEventListener('visibilitychange', turn)
  addEventListener('pagehide', disconnect)
  // Its answer is the next page, which nothing of this one may get in the way of: after a logout this one would ask for the
  // login.
  document.addEventListener('submit', () => {
    isLeaving = true
    disconnect()
  })
  addEventListener('pageshow', event => event.persisted && turn())
  setInterval(() => {
    const follows = [...document.querySelectorAll('[data-follow]')].some(one => one.checkVisibility())
    if (!document.hidden && Date.now() - heard > SILENCE) {
      failures ||= 1
      tryAgain(heard)
    }
    if (!document.hidden && (follows || Date.now() - updated > OLDEST)) refresh()
  }, FOLLOW)
  turn()
}
