/* What a reader with a screen reader, a keyboard or weak eyes would stumble over; an expression, its value is a report. */
(() => {
  const seen = [...document.querySelectorAll('main *, header *, footer *')].filter((e) => e.checkVisibility());
  const name = (e) => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent.trim()
    || (e.getAttribute('aria-labelledby') ?? '').split(' ').map((id) => document.getElementById(id)?.textContent).join('');
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c; } return [255, 255, 255]; };
  const contrast = (e) => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
  const texts = seen.filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) && !e.closest('svg, .fl-unseen, dialog'));
  const levels = seen.filter((e) => /^H[1-6]$/.test(e.tagName)).map((e) => Number(e.tagName[1]));
  return {
    unnamed: seen.filter((e) => e.matches('button, a, input, select, [role=region], [role=img], summary') && !name(e)).map((e) => e.outerHTML),
    pale: texts.filter((e) => contrast(e) < 4.5).map((e) => [e.outerHTML.slice(0, 120), contrast(e)]),
    jumps: levels.filter((level, i) => i && level > levels[i - 1] + 1),
    mains: document.querySelectorAll('main').length, ones: document.querySelectorAll('h1').length,
    ids: [...document.querySelectorAll('[id]')].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i),
    cells: [...document.querySelectorAll('.fleet tr')].map((r) => [...r.children].filter((c) => c.getAttribute('role')).length),
    heads: [...document.querySelectorAll('table')].filter((t) => t.checkVisibility()).filter((t) => !t.caption || !t.querySelector('th[scope=col]')).length,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
})()
