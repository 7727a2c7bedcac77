// The board on which masks are painted: props.value is {rows, cols, picture, mask, strokes}, mask a string of rows * cols
// 0 or 1. An answer repeats the number of strokes that it knew of: with fewer than were painted, it is out of date.
const board = element.querySelector('[role=grid]');
let cells = [], at = 0, brush = null, changed = false, painted = null;

const masked = i => cells[i].getAttribute('aria-selected') === 'true';
function mark(i, hide) {
  cells[i].setAttribute('aria-selected', hide);
  const {row, col} = cells[i].dataset;
  cells[i].setAttribute('aria-label', `row ${row}, column ${col}, ${hide ? 'masked' : 'visible'}`);
}
function build({rows, cols}) {
  board.replaceChildren();
  board.style.aspectRatio = `${cols} / ${rows}`;
  cells = [];
  for (let row = 1; row <= rows; row++) {
    const line = board.appendChild(document.createElement('div'));
    line.setAttribute('role', 'row');
    for (let col = 1; col <= cols; col++) {
      const cell = line.appendChild(document.createElement('div'));
      cell.setAttribute('role', 'gridcell');
      cell.id = `${element.id}-${cells.length}`;
      Object.assign(cell.dataset, {index: cells.length, row, col});
      cells.push(cell);
    }
  }
  at = 0;
}
function move(to) {
  cells[at]?.classList.remove('at');
  at = to;
  cells[at].classList.add('at');
  board.setAttribute('aria-activedescendant', cells[at].id);
}
function show() {
  const value = props.value;
  board.parentElement.hidden = !value;
  if (!value) painted = null;
  if (!value || (brush !== null && cells.length === value.mask.length)) return;  // a stroke is being painted
  if (value.strokes < painted?.strokes) {
    props.value = painted;
    return;
  }
  if (cells.length !== value.mask.length || board.children.length !== value.rows) build(value);
  board.style.backgroundImage = `url(${value.picture})`;
  cells.forEach((_, i) => mark(i, value.mask[i] === '1'));
  move(at);
}
function paint(i) {
  if (masked(i) === brush) return;
  mark(i, brush);
  changed = true;
}
function finish() {
  brush = null;
  if (!changed) return;
  changed = false;
  painted = {...props.value, mask: cells.map((_, i) => Number(masked(i))).join(''), strokes: props.value.strokes + 1};
  props.value = painted;
  // Chosen here, not by an answer of the server: until it came, 'random' would be sent with the painted mask.
  const sampler = document.querySelector('input[type=radio][value=painted]');
  if (sampler.checked) trigger('input');
  else sampler.click();
}
const under = event => document.elementFromPoint(event.clientX, event.clientY)?.closest('[data-index]');

board.addEventListener('pointerdown', event => {
  const cell = under(event);
  if (!cell || event.button) return;
  brush = !masked(+cell.dataset.index);
  move(+cell.dataset.index);
  paint(at);
});
board.addEventListener('pointermove', event => {
  const cell = under(event);
  if (brush === null || !cell || !board.contains(cell)) return;
  move(+cell.dataset.index);
  paint(at);
});
window.addEventListener('pointerup', finish);
window.addEventListener('pointercancel', finish);
board.addEventListener('keydown', event => {
  const {cols} = props.value;
  const col = at % cols;
  const to = {ArrowLeft: col ? at - 1 : at, ArrowRight: col < cols - 1 ? at + 1 : at, ArrowUp: at - cols,
              ArrowDown: at + cols, Home: at - col, End: at - col + cols - 1}[event.key];
  if (to === undefined && event.key !== ' ' && event.key !== 'Enter') return;
  event.preventDefault();
  if (to !== undefined) {
    if (to >= 0 && to < cells.length) move(to);
    return;
  }
  brush = !masked(at);
  paint(at);
  finish();
});
board.nextElementSibling.addEventListener('click', () => {
  brush = false;
  cells.forEach((_, i) => paint(i));
  finish();
});
watch('value', show);
show();
