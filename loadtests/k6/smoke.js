// A smoke load through the public REST API: counters, carts, accounts, documents, retries, preconditions, history and bad
// input. Every answer is checked against the contract; one wrong answer fails the run.
//
//   k6 run loadtests/k6/smoke.js
//
//   BASE_URL   where the gateway is (http://127.0.0.1:8080)
//   PROFILE    smoke (default), load or soak: how many clients, for how long
//   VUS        number of clients, instead of the profile's
//   DURATION   how long, such as 30s, instead of the profile's
//   P95_MS     the latency that 95 % of the requests must keep (500)

import http from 'k6/http';
import { check, fail, group, sleep } from 'k6';
import exec from 'k6/execution';
import { Counter } from 'k6/metrics';

const BASE_URL = (__ENV.BASE_URL || 'http://127.0.0.1:8080').replace(/\/+$/, '');
const PROFILES = {
  smoke: { vus: 8, duration: '20s' },
  load: { vus: 64, duration: '2m' },
  soak: { vus: 16, duration: '1h' },
};
const profileName = __ENV.PROFILE || 'smoke';
const profile = PROFILES[profileName];
if (!profile) {
  throw new Error(`PROFILE: "${profileName}" is not allowed; allowed are ${Object.keys(PROFILES).join(', ')}`);
}
const P95_MS = Number(__ENV.P95_MS || 500);

export const options = {
  vus: Number(__ENV.VUS || profile.vus),
  duration: __ENV.DURATION || profile.duration,
  summaryTrendStats: ['avg', 'med', 'p(95)', 'p(99)', 'max'],
  thresholds: {
    // Each request names the statuses it expects; any other, a lost connection or a time-out counts as failed.
    http_req_failed: ['rate==0'],
    checks: ['rate==1.0'],
    'http_req_duration{operation:read}': [`p(95)<${P95_MS}`],
    'http_req_duration{operation:command}': [`p(95)<${P95_MS}`],
    // A run in which no journey came to its end has checked nothing.
    journeys: ['count>0'],
  },
};

const journeys = new Counter('journeys');

// ---- Requests

const JSON_HEADERS = { 'Content-Type': 'application/json' };

function params(operation, statuses, headers) {
  return {
    headers: Object.assign({}, JSON_HEADERS, headers),
    tags: { operation, name: operation },
    responseCallback: http.expectedStatuses(...statuses),
    timeout: '10s',
  };
}

function path(kind, id) {
  return `${BASE_URL}/v1/entities/${kind}/${encodeURIComponent(id)}`;
}

function command(kind, id, name, body, { statuses = [200], headers = {} } = {}) {
  const text = body === undefined ? null : typeof body === 'string' ? body : JSON.stringify(body);
  return http.post(`${path(kind, id)}/${name}`, text, params('command', statuses, headers));
}

function read(kind, id, { statuses = [200], headers = {} } = {}) {
  return http.get(path(kind, id), params('read', statuses, headers));
}

function header(response, name) {
  const found = Object.keys(response.headers).find((key) => key.toLowerCase() === name.toLowerCase());
  return found === undefined ? undefined : response.headers[found];
}

// The parsed body, or an empty object, so that a check fails instead of the script.
function body(response) {
  try {
    return response.json() || {};
  } catch (_) {
    return {};
  }
}

function etagVersion(response) {
  const match = /^(?:W\/)?"(\d+)(?:-[a-z]+)?"$/.exec(header(response, 'ETag') || '');
  return match ? Number(match[1]) : NaN;
}

// Keys keep their order in no JSON object, so that states are compared with sorted keys.
function canonical(value) {
  if (Array.isArray(value)) return value.map(canonical);
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.keys(value).sort().map((key) => [key, canonical(value[key])]));
  }
  return value;
}

function same(a, b) {
  return JSON.stringify(canonical(a)) === JSON.stringify(canonical(b));
}

// ---- Checks that many journeys share

function checkCommand(response, kind, id, version) {
  const answer = body(response);
  return check(response, {
    'command: 200': (r) => r.status === 200,
    'command: names the entity': () => answer.kind === kind && answer.id === id,
    'command: the version is the next one': () => answer.version === version,
    'command: the entity tag is the version': (r) => etagVersion(r) === answer.version,
    'command: carries a session token': (r) => (header(r, 'Berth-Session') || '').length > 0,
    'command: carries reply and state': () => 'reply' in answer && 'state' in answer,
  });
}

// Reads what was just written: at least `version`, and exactly `state` where nobody else writes.
function checkRead(kind, id, version, state) {
  const response = read(kind, id);
  const answer = body(response);
  check(response, {
    'read: 200': (r) => r.status === 200,
    'read: names the entity': () => answer.kind === kind && answer.id === id,
    'read: sees what was written before': () => answer.version >= version,
    'read: the entity tag is the version': (r) => etagVersion(r) === answer.version,
    'read: the state is the one written': () => state === undefined || same(answer.state, state),
  });
  return answer;
}

function checkProblem(response, status, code) {
  const problem = body(response);
  check(response, {
    [`problem ${code}: ${status}`]: (r) => r.status === status,
    'problem: media type': (r) => (header(r, 'Content-Type') || '').startsWith('application/problem+json'),
    [`problem ${code}: code`]: () => problem.code === code,
    'problem: status, type, title and trace id': () =>
      problem.status === status && !!problem.type && !!problem.title && /^[0-9a-f]{32}$/.test(problem.traceId || ''),
    'problem: tells nothing of the inside': (r) => !/panicked|\.rs:|127\.0\.0\.1:\d|\/root\/|\/home\//.test(r.body || ''),
  });
  return problem;
}

// Reads the whole history by pages and checks that versions are 1, 2, 3 … without a gap.
function checkHistory(kind, id, version) {
  let after = 0;
  const events = [];
  for (let page = 0; page < 100; page++) {
    const response = http.get(`${path(kind, id)}/events?after=${after}&limit=3`, params('events', [200], {}));
    const answer = body(response);
    const ok = check(response, {
      'history: 200': (r) => r.status === 200,
      'history: names the entity': () => answer.kind === kind && answer.id === id,
      'history: a page is no longer than asked for': () => Array.isArray(answer.events) && answer.events.length <= 3,
      'history: every event has type, time and data': () =>
        (answer.events || []).every((e) => !!e.type && !Number.isNaN(Date.parse(e.time)) && 'data' in e),
    });
    if (!ok) return;
    events.push(...answer.events);
    if (answer.next === null || answer.next === undefined) break;
    after = answer.next;
  }
  check(events, {
    'history: versions are 1, 2, 3 … without a gap': (all) => all.every((event, i) => event.version === i + 1),
    'history: is as long as the version says': (all) => all.length === version,
    'history: times never go back': (all) => all.every((e, i) => i === 0 || Date.parse(e.time) >= Date.parse(all[i - 1].time)),
  });
}

// ---- Journeys

function counterJourney(id) {
  let sum = 0;
  for (let version = 1; version <= 4; version++) {
    sum += version;
    const response = command('counter', id, 'add', { by: version });
    checkCommand(response, 'counter', id, version);
    checkRead('counter', id, version, { value: sum });
  }
  checkCommand(command('counter', id, 'add', undefined), 'counter', id, 5);
  checkRead('counter', id, 5, { value: sum + 1 });
  const unchanged = read('counter', id, { statuses: [304], headers: { 'If-None-Match': '"5"' } });
  check(unchanged, { 'read: 304 when unchanged': (r) => r.status === 304 });
  checkHistory('counter', id, 5);
}

// All clients add to one counter. Each adds 1 and nobody resets it, so that its value is its version.
function hotCounterJourney(id, seen) {
  const response = command('counter', id, 'add', { by: 1 });
  const answer = body(response);
  check(response, {
    'hot: 200': (r) => r.status === 200,
    'hot: every add is counted once': () => answer.state && answer.state.value === answer.version,
    'hot: versions only go up': () => answer.version > seen,
  });
  const now = checkRead('counter', id, answer.version);
  check(now, { 'hot: a read is of one moment': () => now.state && now.state.value === now.version });
  return now.version || seen;
}

function cartJourney(id) {
  checkCommand(command('cart', id, 'add-item', { sku: 'tea', quantity: 2, unitPriceCents: 450 }), 'cart', id, 1);
  checkCommand(command('cart', id, 'add-item', { sku: 'cup', quantity: 1, unitPriceCents: 1200 }), 'cart', id, 2);
  checkCommand(command('cart', id, 'remove-item', { sku: 'tea', quantity: 1 }), 'cart', id, 3);
  checkRead('cart', id, 3, {
    items: { tea: { quantity: 1, unitPriceCents: 450 }, cup: { quantity: 1, unitPriceCents: 1200 } },
    status: 'open',
    totalCents: 1650,
  });
  checkCommand(command('cart', id, 'checkout', {}), 'cart', id, 4);
  const late = command('cart', id, 'add-item', { sku: 'tea', quantity: 1, unitPriceCents: 450 }, { statuses: [422] });
  checkProblem(late, 422, 'rejected');
  const cart = checkRead('cart', id, 4);
  check(cart, { 'cart: a rejection writes nothing': (c) => c.version === 4 && c.state.status === 'checkedOut' });
  checkHistory('cart', id, 4);
}

function accountJourney(id) {
  checkCommand(command('account', id, 'open', {}), 'account', id, 1);
  checkCommand(command('account', id, 'deposit', { amountCents: 1000 }), 'account', id, 2);
  const refused = command('account', id, 'withdraw', { amountCents: 1001 }, { statuses: [422] });
  const problem = checkProblem(refused, 422, 'rejected');
  check(problem, { 'account: the rejection has its reason': (p) => p.reason === 'insufficient-funds' });
  checkRead('account', id, 2, { balanceCents: 1000, open: true });
  checkCommand(command('account', id, 'withdraw', { amountCents: 1000 }), 'account', id, 3);
  checkCommand(command('account', id, 'close', {}), 'account', id, 4);
  checkRead('account', id, 4, { balanceCents: 0, open: false });
}

function documentJourney(id) {
  const value = { title: 'Ünïcode ✓', tags: ['a', 'b'], nested: { keep: 1, drop: 2 } };
  checkCommand(command('document', id, 'put', { value }), 'document', id, 1);
  checkRead('document', id, 1, value);
  checkCommand(command('document', id, 'merge', { patch: { nested: { drop: null }, title: 'new' } }), 'document', id, 2);
  checkRead('document', id, 2, { title: 'new', tags: ['a', 'b'], nested: { keep: 1 } });
  const ops = [{ op: 'replace', path: '/tags/0', value: 'z' }, { op: 'add', path: '/tags/-', value: 'c' }];
  checkCommand(command('document', id, 'patch', { ops }), 'document', id, 3);
  checkRead('document', id, 3, { title: 'new', tags: ['z', 'b', 'c'], nested: { keep: 1 } });
}

// A retry with the same key has the first outcome and no effect, a refused one too.
function retryJourney(id) {
  const headers = { 'Idempotency-Key': `key-${id}` };
  const first = command('counter', id, 'add', { by: 5 }, { headers });
  checkCommand(first, 'counter', id, 1);
  check(first, { 'retry: the first is no replay': (r) => header(r, 'Idempotency-Replayed') === undefined });
  checkCommand(command('counter', id, 'add', { by: 7 }), 'counter', id, 2);
  const again = command('counter', id, 'add', { by: 5 }, { headers });
  check(again, {
    'retry: 200': (r) => r.status === 200,
    'retry: is called a replay': (r) => header(r, 'Idempotency-Replayed') === 'true',
    'retry: has the version of the first': (r) => body(r).version === 1,
    'retry: has the body of the first': (r) => same(body(r), body(first)),
  });
  const other = command('counter', id, 'add', { by: 6 }, { headers, statuses: [422] });
  checkProblem(other, 422, 'key-reused');
  checkRead('counter', id, 2, { value: 12 });

  const refusedHeaders = { 'Idempotency-Key': `refused-${id}` };
  const account = `${id}-account`;
  checkCommand(command('account', account, 'open', {}), 'account', account, 1);
  const withdraw = (statuses) =>
    command('account', account, 'withdraw', { amountCents: 1 }, { headers: refusedHeaders, statuses });
  checkProblem(withdraw([422]), 422, 'rejected');
  checkCommand(command('account', account, 'deposit', { amountCents: 100 }), 'account', account, 2);
  // There is money now, but the key's outcome was decided before.
  checkProblem(withdraw([422]), 422, 'rejected');
  checkRead('account', account, 2, { balanceCents: 100, open: true });
}

function preconditionJourney(id) {
  const onlyNew = { headers: { 'If-None-Match': '*' } };
  checkCommand(command('counter', id, 'add', {}, onlyNew), 'counter', id, 1);
  checkProblem(command('counter', id, 'add', {}, { statuses: [412], ...onlyNew }), 412, 'version-mismatch');
  checkCommand(command('counter', id, 'add', {}, { headers: { 'If-Match': '"1"' } }), 'counter', id, 2);
  const stale = command('counter', id, 'add', {}, { statuses: [412], headers: { 'If-Match': '"1"' } });
  const problem = checkProblem(stale, 412, 'version-mismatch');
  check(problem, { 'precondition: tells the current version': (p) => p.currentVersion === 2 });
  // What a proxy that compresses makes of the tag.
  checkCommand(command('counter', id, 'add', {}, { headers: { 'If-Match': 'W/"2-gzip"' } }), 'counter', id, 3);
  checkRead('counter', id, 3, { value: 3 });
}

function badInputJourney(id) {
  checkProblem(read('counter', id, { statuses: [404] }), 404, 'not-found');
  checkProblem(read('no-such-kind', id, { statuses: [404] }), 404, 'unknown-kind');
  checkProblem(command('counter', id, 'no-such-command', {}, { statuses: [404] }), 404, 'unknown-command');
  checkProblem(command('counter', id, 'add', '{"by":', { statuses: [400] }), 400, 'invalid-request');
  checkProblem(command('counter', id, 'add', { by: 'one' }, { statuses: [400] }), 400, 'invalid-request');
  const deep = '['.repeat(200) + ']'.repeat(200);
  checkProblem(command('document', id, 'put', `{"value":${deep}}`, { statuses: [400] }), 400, 'invalid-request');
  checkProblem(command('counter', 'a\u0000b', 'add', {}, { statuses: [400] }), 400, 'invalid-request');
  const huge = JSON.stringify({ value: 'x'.repeat(1200 * 1024) });
  // Once in a while: the bytes of an oversize body would otherwise be most of the load.
  if (exec.vu.iterationInScenario % 10 === 0) {
    checkProblem(command('document', id, 'put', huge, { statuses: [413] }), 413, 'too-large');
  }
  checkProblem(read('counter', id, { statuses: [404] }), 404, 'not-found');
  checkProblem(read('document', id, { statuses: [404] }), 404, 'not-found');
}

// Ids that look like paths are still one opaque id.
function hostileIdJourney(id) {
  for (const hostile of [`${id}/slash`, `${id} space ü/∞`, `${id}%2F..`, `${id}?x=1#y`]) {
    checkCommand(command('counter', hostile, 'add', { by: 2 }), 'counter', hostile, 1);
    checkRead('counter', hostile, 1, { value: 2 });
  }
}

// ---- The run

export function setup() {
  const deadline = Date.now() + 30000;
  while (Date.now() < deadline) {
    const response = http.get(`${BASE_URL}/v1/kinds`, { responseCallback: http.expectedStatuses({ min: 0, max: 599 }) });
    if (response.status === 200) {
      return { run: `${Date.now().toString(36)}-${Math.floor(Math.random() * 1e9).toString(36)}` };
    }
    sleep(0.5);
  }
  fail(`${BASE_URL}/v1/kinds did not answer 200 within 30 s`);
}

let hotVersionSeen = 0;

export default function (data) {
  const id = `${data.run}-${exec.vu.idInTest}-${exec.vu.iterationInScenario}`;
  group('counter', () => counterJourney(`${id}-counter`));
  group('hot counter', () => {
    hotVersionSeen = hotCounterJourney(`${data.run}-hot`, hotVersionSeen);
  });
  group('cart', () => cartJourney(`${id}-cart`));
  group('account', () => accountJourney(`${id}-account`));
  group('document', () => documentJourney(`${id}-document`));
  group('retry', () => retryJourney(`${id}-retry`));
  group('precondition', () => preconditionJourney(`${id}-precondition`));
  group('bad input', () => badInputJourney(`${id}-bad`));
  group('hostile ids', () => hostileIdJourney(`${id}-hostile`));
  journeys.add(1);
}

export function teardown(data) {
  const hot = body(read('counter', `${data.run}-hot`));
  check(hot, { 'hot: in the end its value is its version': (h) => h.state && h.state.value === h.version });
}
