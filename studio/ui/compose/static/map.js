// The map of units in the browser. Gradio runs this once per mount and gives element, trigger, props and watch.
// Points are drawn by plotly in WebGL. Centroids and the keyboard's ring go on a canvas of our own above it, so that a
// moving k slider never makes the GPU draw the cloud again.

// Okabe and Ito's colour-blind-safe colours, then cividis for ordered things.
const PALETTE = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#999933', '#882255'];
const RAMP = ['#00224e', '#2a3f6d', '#575d6d', '#7d7c78', '#a59c74', '#d2c060', '#fee838'];
const RAMP_DARK = ['#3a6fb5', '#5583a9', '#7d949c', '#a0a48f', '#c4b57c', '#e3ca5f', '#fee838'];
const SYMBOLS = ['circle', 'square', 'diamond', 'triangle-up', 'cross', 'x', 'star'];
const TOOLS = [['lasso2d', 'select2d', 'pan2d', 'zoom2d'], ['zoomIn2d', 'zoomOut2d', 'resetScale2d'], ['toImage']];
const MANY = 24; // more names than this are not listed in the legend
const NONE = 65535;
const ARRAYS = { f4: Float32Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };

// Gradio takes any quoted word here for an event, so no channel (note, empty, ...) is written as a bare string.
const find = (selector) => element.querySelector(selector);
const [plot, stage, overlay, tip] = ['.plot', '.stage', '.overlay', '.tip'].map(find);
const map = { points: null, centroids: null, muted: null, ids: [[], []], picked: [], cursor: -1, draws: 0, bound: false };

function unpack(packed) {
  const text = atob(packed.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new ARRAYS[packed.dtype](bytes.buffer);
}

function unpackAll(value) {
  const out = {};
  for (const [name, part] of Object.entries(value)) {
    if (part && part.dtype) out[name] = unpack(part);
    else if (part && part.index) out[name] = { names: part.names, index: unpack(part.index) };
    else out[name] = part;
  }
  return out;
}

function loadPlotly() {
  if (window.Plotly) return Promise.resolve();
  if (!window.__loomPlotly) {
    // The page may live under a prefix: keep the path that Gradio was told, and the origin that the browser sees.
    const root = new URL((window.gradio_config && window.gradio_config.root) || '.', document.baseURI).pathname;
    window.__loomPlotly = new Promise((resolve, reject) => {
      const script = document.createElement('script');
      script.src = root.replace(/\/$/, '') + '/gradio_api/file=' + encodeURI(props.plotly);
      script.onload = resolve;
      script.onerror = () => reject(new Error('plotly.min.js did not load'));
      document.head.appendChild(script);
    });
  }
  return window.__loomPlotly;
}

const isDark = () => document.body.classList.contains('dark') || document.documentElement.classList.contains('dark');
const take = (array, ids) => Float32Array.from(ids, (id) => array[id]);

function colouring() {
  const mode = props.colour || 'source';
  if (mode !== 'cluster') return { ...map.points[mode], ordered: mode === 'layer' };
  const labels = map.centroids ? map.centroids.labels : new Uint16Array(map.points.points).fill(NONE);
  const count = labels.reduce((most, label) => (label === NONE ? most : Math.max(most, label + 1)), 0);
  return { index: labels, names: Array.from({ length: count }, (_, i) => 'cluster ' + (i + 1)), ordered: false };
}

function marker(ids) {
  const { names, index, ordered } = colouring();
  const ramp = isDark() ? RAMP_DARK : RAMP;
  const steps = PALETTE.flatMap((c, i) => [[i / PALETTE.length, c], [(i + 1) / PALETTE.length, c]]);
  const most = map.points.energy.reduce((a, b) => Math.max(a, b), 1e-12);
  const many = !ordered && names.length > PALETTE.length;
  return {
    color: take(ordered ? index : index.map((i) => i % PALETTE.length), ids),
    colorscale: ordered ? ramp.map((c, i) => [i / (ramp.length - 1), c]) : steps,
    cmin: ordered ? 0 : -0.5,
    cmax: ordered ? Math.max(names.length - 1, 1) : PALETTE.length - 0.5,
    size: Float32Array.from(ids, (id) => 4 + 10 * Math.sqrt(map.points.energy[id] / most)),
    symbol: many ? Array.from(ids, (id) => SYMBOLS[Math.floor(index[id] / PALETTE.length) % SYMBOLS.length]) : 'circle',
    line: { width: 0 },
    opacity: 0.8,
  };
}

function traces() {
  const { points, x, y } = map.points;
  map.ids = [[], []];
  for (let id = 0; id < points; id++) map.ids[map.muted && map.muted[id] ? 1 : 0].push(id);
  const common = { type: 'scattergl', mode: 'markers', hoverinfo: 'none', unselected: { marker: { opacity: 0.12 } } };
  const hollow = { symbol: 'circle-open', color: isDark() ? '#9a9a9a' : '#767676', size: 6, opacity: 0.55 };
  return map.ids.map((ids, i) => ({
    ...common,
    x: take(x, ids),
    y: take(y, ids),
    marker: i ? hollow : marker(ids),
    selectedpoints: selectedIn(ids),
  }));
}

function selectedIn(ids) {
  if (!map.picked.length) return null;
  const wanted = new Set(map.picked);
  return ids.flatMap((id, i) => (wanted.has(id) ? [i] : []));
}

function layout() {
  const axis = {
    showticklabels: false,
    zeroline: false,
    gridcolor: isDark() ? 'rgba(255,255,255,0.08)' : 'rgba(0,0,0,0.07)',
  };
  const text = getComputedStyle(element).color;
  return {
    // Pictures of the same units keep the zoom; another set of units starts afresh.
    uirevision: map.points.frame,
    // What is picked shows by its brightness. A lasso's outline left behind would catch the next drag.
    selections: [],
    selectionrevision: ++map.draws,
    dragmode: 'lasso',
    showlegend: false,
    hovermode: 'closest',
    margin: { l: 4, r: 4, t: 4, b: 4 },
    paper_bgcolor: 'rgba(0,0,0,0)',
    plot_bgcolor: 'rgba(0,0,0,0)',
    modebar: { bgcolor: 'rgba(0,0,0,0)', color: text, activecolor: '#0072b2' },
    xaxis: axis,
    yaxis: { ...axis, scaleanchor: 'x' },
  };
}

// One at a time, since purging, painting or resizing a plot that is being drawn breaks it. What waits already comes once.
let drawing = Promise.resolve();
const waiting = new Set();

function inTurn(work) {
  if (waiting.has(work)) return;
  waiting.add(work);
  const next = () => {
    waiting.delete(work);
    return work();
  };
  drawing = drawing.then(next).catch((error) => console.error(error));
}

const draw = () => inTurn(redraw);

async function redraw() {
  find('.empty').textContent = props.value && props.value.points ? '' : props.empty;
  find('.note').textContent = noteText();
  if (!props.value || !props.value.points) {
    map.points = null;
    if (map.bound) window.Plotly.purge(plot);
    map.bound = false;
    finish();
    return;
  }
  if (!map.points || map.points.version !== props.value.version) map.points = unpackAll(props.value);
  try {
    await loadPlotly();
  } catch (error) {
    find('.empty').textContent = 'The map cannot be drawn: ' + error.message + '.';
    return;
  }
  const config = { displaylogo: false, scrollZoom: true, modeBarButtons: TOOLS };
  await window.Plotly.react(plot, traces(), layout(), config);
  if (!map.bound) bind();
  finish();
}

function noteText() {
  const { points, total } = props.value || {};
  const sampled = points < total ? `${points} of ${total} units, those of most energy. ` : '';
  return sampled + (props.note || '');
}

function finish() {
  drawLegend();
  drawOverlay();
  find('.clear').hidden = !map.picked.length;
  const drawn = map.points;
  window.__loomMap = {
    version: drawn ? drawn.version : '',
    points: drawn ? drawn.points : 0,
    draws: map.draws,
    centroids: map.centroids ? map.centroids.x.length : 0,
    muted: map.ids[1].length,
    picked: map.picked.length,
    where: (id) => {
      const box = plot.getBoundingClientRect();
      const [left, top] = pixel(drawn.x[id], drawn.y[id]);
      return [box.left + left, box.top + top];
    },
  };
}

// ---- what Python changes beside the points ----

function moveCentroids() {
  map.centroids = props.centroids ? unpackAll(props.centroids) : null;
  if (props.colour === 'cluster') draw();
  else finish();
}

const channels = {
  value: () => { map.cursor = -1; map.picked = []; draw(); },
  centroids: moveCentroids,
  muted: () => { map.muted = props.muted ? unpack(props.muted) : null; draw(); },
  picked: () => { map.picked = [...(props.picked || [])]; draw(); },
  colour: draw,
  note: () => { find('.note').textContent = noteText(); },
};

// ---- centroids and the ring of the keyboard ----

function pixel(x, y) {
  const { xaxis, yaxis } = plot._fullLayout;
  return [xaxis._offset + xaxis.l2p(x), yaxis._offset + yaxis.l2p(y)];
}

function drawOverlay() {
  const scale = window.devicePixelRatio || 1;
  overlay.width = stage.clientWidth * scale;
  overlay.height = stage.clientHeight * scale;
  const pen = overlay.getContext('2d');
  pen.scale(scale, scale);
  if (!map.points || !plot._fullLayout) return;
  const { x = [], y = [], size = [] } = map.centroids || {};
  const scarce = Math.min(1, Math.sqrt(48 / Math.max(x.length, 1))); // hundreds of centroids must not hide the units
  pen.lineWidth = 0.5 + scarce;
  pen.strokeStyle = isDark() ? '#ffffff' : '#000000';
  pen.fillStyle = isDark() ? 'rgba(255,255,255,0.25)' : 'rgba(0,0,0,0.15)';
  for (let i = 0; i < x.length; i++) diamond(pen, pixel(x[i], y[i]), 2 + scarce * (1 + Math.min(9, 1.2 * Math.sqrt(size[i]))));
  if (map.cursor < 0) return;
  pen.lineWidth = 3;
  pen.beginPath();
  pen.arc(...pixel(map.points.x[map.cursor], map.points.y[map.cursor]), 10, 0, 2 * Math.PI);
  pen.stroke();
}

function diamond(pen, [left, top], radius) {
  pen.beginPath();
  pen.moveTo(left, top - radius);
  pen.lineTo(left + radius, top);
  pen.lineTo(left, top + radius);
  pen.lineTo(left - radius, top);
  pen.closePath();
  pen.fill();
  pen.stroke();
}

// ---- the legend ----

function drawLegend() {
  const legend = find('.legend');
  legend.replaceChildren();
  if (!map.points) return;
  const { names, ordered } = colouring();
  if (ordered && names.length > 2) {
    const ramp = document.createElement('div');
    ramp.className = 'ramp';
    ramp.style.background = `linear-gradient(90deg, ${(isDark() ? RAMP_DARK : RAMP).join(',')})`;
    legend.append(key(null, names[0]), ramp, key(null, names[names.length - 1]));
    return;
  }
  const ramp = isDark() ? RAMP_DARK : RAMP;
  const colour = (i) => (ordered ? ramp[i * (ramp.length - 1)] : PALETTE[i % PALETTE.length]);
  names.slice(0, MANY).forEach((name, i) => legend.append(key(colour(i), name)));
  if (names.length > MANY) legend.append(key(null, `and ${names.length - MANY} more`));
  if (map.ids[1].length) legend.append(key('none', `${map.ids[1].length} muted`));
}

function key(colour, name) {
  const item = document.createElement('div');
  const label = document.createElement('span');
  item.className = 'key';
  label.textContent = item.title = name;
  if (colour) {
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    const dot = document.createElementNS('http://www.w3.org/2000/svg', 'circle');
    const look = { cx: 6, cy: 6, r: 4.5, fill: colour, stroke: colour === 'none' ? 'gray' : colour };
    for (const [name, value] of Object.entries({ width: 12, height: 12 })) svg.setAttribute(name, value);
    for (const [name, value] of Object.entries(look)) dot.setAttribute(name, value);
    svg.append(dot);
    item.append(svg);
  }
  item.append(label);
  return item;
}

// ---- the tip ----

function tell(id) {
  const p = map.points;
  if (p.tips) return p.tips[id]; // a map of something else than units brings its own words
  const of = (column) => p[column].names[p[column].index[id]];
  const percent = (share) => (100 * share).toPrecision(3) + ' %';
  const lines = [
    `${of('source')}, unit ${p.rank[id] + 1}`,
    of('module'),
    `energy ${percent(p.energy[id])} of the adapter, ${percent(p.module_energy[id])} of the module`,
  ];
  if (p.near_source[id] !== NONE) {
    const other = `${p.source.names[p.near_source[id]]}, unit ${p.near_rank[id] + 1}`;
    lines.push(`nearest: ${other} (cosine ${p.near_cosine[id].toFixed(3)})`);
  }
  if (map.muted && map.muted[id]) lines.push('muted: left out of the merge');
  return lines.join('\n');
}

function showTip(id) {
  const [left, top] = pixel(map.points.x[id], map.points.y[id]);
  tip.textContent = tell(id);
  tip.hidden = false;
  const room = (space, size, at) => Math.max(4, Math.min(at + 14, space - size - 4));
  tip.style.left = room(stage.clientWidth, tip.offsetWidth, left) + 'px';
  tip.style.top = (top + tip.offsetHeight + 18 > stage.clientHeight ? Math.max(4, top - tip.offsetHeight - 14) : top + 14) + 'px';
}

// ---- picking ----

function pick(how, ids) {
  map.picked = ids;
  trigger('pick', { how, ids });
  inTurn(paintPicked);
}

async function paintPicked() {
  if (!map.bound) return;
  const fresh = { selections: [], selectionrevision: ++map.draws };
  await window.Plotly.update(plot, { selectedpoints: map.ids.map(selectedIn) }, fresh, [0, 1]);
  finish();
}

function clear() {
  if (!map.picked.length) return;
  map.picked = [];
  trigger('clear', {});
  inTurn(paintPicked);
}

function bind() {
  map.bound = true;
  const idsOf = (event) => event.points.map((point) => map.ids[point.curveNumber][point.pointNumber]);
  plot.on('plotly_click', (event) => pick('click', idsOf(event).slice(0, 1)));
  plot.on('plotly_hover', (event) => showTip(idsOf(event)[0]));
  plot.on('plotly_unhover', () => { tip.hidden = true; });
  plot.on('plotly_selected', (event) => {
    if (!event || !event.points || !(event.lassoPoints || event.range)) return;
    const ids = idsOf(event);
    if (ids.length) pick(event.lassoPoints ? 'lasso' : 'box', ids);
    else clear();
  });
  plot.on('plotly_deselect', clear);
  plot.on('plotly_doubleclick', clear);
  plot.on('plotly_relayouting', drawOverlay);
  plot.on('plotly_afterplot', drawOverlay);
}

function nearestTowards(dx, dy) {
  const { points, x, y } = map.points;
  if (map.cursor < 0) return 0;
  let best = map.cursor;
  let least = Infinity;
  for (let id = 0; id < points; id++) {
    const [right, up] = [x[id] - x[map.cursor], y[id] - y[map.cursor]];
    const along = right * dx + up * dy;
    const across = Math.abs(right * dy) + Math.abs(up * dx);
    const far = along + 2 * across;
    if (along > 0 && across <= along && far < least) [best, least] = [id, far];
  }
  return best;
}

stage.addEventListener('keydown', (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!map.points || !map.bound) return;
  if (step) {
    map.cursor = nearestTowards(...step);
    showTip(map.cursor);
    find('.say').textContent = tell(map.cursor);
    drawOverlay();
  } else if (event.key === 'Enter' && map.cursor >= 0) pick('key', [map.cursor]);
  else if (event.key === 'Escape') clear();
  else return;
  event.preventDefault();
});
stage.addEventListener('blur', () => { map.cursor = -1; tip.hidden = true; drawOverlay(); });
find('.clear').addEventListener('click', clear);

// ---- theme and size ----

const themed = new MutationObserver(() => (element.isConnected ? draw() : themed.disconnect()));
for (const node of [document.body, document.documentElement]) themed.observe(node, { attributeFilter: ['class'] });
const fit = () => (map.bound && stage.clientWidth ? window.Plotly.Plots.resize(plot) : null);
new ResizeObserver(() => inTurn(fit)).observe(stage);

for (const [name, act] of Object.entries(channels)) watch(name, act);
map.centroids = props.centroids ? unpackAll(props.centroids) : null;
map.muted = props.muted ? unpack(props.muted) : null;
map.picked = [...(props.picked || [])];
draw();
