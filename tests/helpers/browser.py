"""Pages in a real browser: Debian's Chromium, which `.ci/run` installs."""

import shutil

BROWSER = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')

# Texts whose contrast is below WCAG's 4.5 (3 for large ones), as 'ratio text'. Colours of all notations are drawn.
LOW_CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const background = element => {
    const below = element.parentElement ? background(element.parentElement) : rgba('Canvas');
    return over(rgba(getComputedStyle(element).backgroundColor), below);
  };
  const luminance = colour => colour.slice(0, 3).map(x => x / 255)
    .map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
  const low = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    const visible = element.checkVisibility({opacityProperty: true, visibilityProperty: true});
    if (!walker.currentNode.textContent.trim() || !visible || element.closest('script, style, [disabled]')) continue;
    const behind = background(element);
    const [light, dark] = [luminance(over(rgba(style.color), behind)), luminance(behind)].sort((a, b) => b - a);
    const ratio = (light + .05) / (dark + .05), size = parseFloat(style.fontSize);
    const large = size >= 24 || size >= 18.66 && style.fontWeight >= 700;
    if (ratio < (large ? 3 : 4.5)) low.push(`${ratio.toFixed(2)} ${walker.currentNode.textContent.trim()}`);
  }
  return low;
}"""

# Controls without a name for screen readers, as HTML.
NAMELESS = """() => [...document.querySelectorAll('input, button, select, textarea, [tabindex="0"], img')]
  .filter(element => element.checkVisibility() && !(element.labels?.length || element.ariaLabel || element.title
    || element.getAttribute('aria-labelledby') || element.alt || element.innerText?.trim()))
  .map(element => element.outerHTML.slice(0, 200))"""
