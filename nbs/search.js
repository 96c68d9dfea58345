// The site's search: a field in the bar of each page, and the list of what it finds. Made here, so that there is no field
// without JavaScript. search_ranks.js, which knows what to find, and the index come when the field is first used; both
// are scripts, since a page from file:// may load no other kind of file.
(() => {
  const MOST = 20 // results shown
  const here = document.currentScript.src

  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag)
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
    element.append(...children)
    return element
  }
  const list = make('div', {id: 'site-search-list', role: 'listbox', 'aria-label': 'Results', tabindex: -1})
  const status = make('p', {role: 'status'})
  const panel = make('div', {class: 'site-search-panel', hidden: ''}, status, list)
  const field = make('input', {
    type: 'text', placeholder: 'Search', title: 'Press / to search', 'aria-label': 'Search', 'aria-keyshortcuts': '/ s',
    role: 'combobox', 'aria-autocomplete': 'list', 'aria-expanded': 'false', 'aria-controls': list.id,
    autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', enterkeyhint: 'go',
  })
  const box = make('div', {class: 'site-search', role: 'search'},
                   make('i', {class: 'bi bi-search', 'aria-hidden': 'true'}), field, panel)

  // ---- loading
  const script = name => new Promise((done, failed) =>
    document.head.append(Object.assign(make('script', {src: new URL(name, here)}), {onload: done, onerror: failed})))
  let loaded = null
  const load = () => loaded ??= Promise.all([script('search_ranks.js'), script('search_index.js')])
    .then(() => siteSearch.prepare(searchIndex))

  // ---- results
  const withMarks = (name, pieces) =>
    make('span', {class: name}, ...pieces.map((piece, i) => i%2 ? make('mark', {}, piece) : piece))
  const option = (entry, i, query) => {
    const [name, where, text, code] = [
      [entry.name], [entry.kind == 'page' ? 'page' : entry.page], [entry.text, 150], [entry.code, 150],
    ].map(([text, length]) => siteSearch.marked(text, query, length))
    if (!['page', 'section'].includes(entry.kind)) where.push(where.pop() + ` · ${entry.kind}`)
    const found = pieces => pieces.length > 1
    const excerpt = found(text) || found(name) && text[0] || !found(code) ? text : code
    const link = {href: new URL(entry.href, here), tabindex: -1}
    return make('a', {id: `site-search-${i}`, role: 'option', 'aria-selected': 'false', ...link},
      withMarks('site-search-name', name), withMarks('site-search-where', where), withMarks('site-search-text', excerpt))
  }
  let chosen = -1
  const choose = n => {
    list.children[chosen]?.setAttribute('aria-selected', 'false')
    field.removeAttribute('aria-activedescendant')
    const option = list.children[chosen = n]
    if (!option) return
    option.setAttribute('aria-selected', 'true')
    option.scrollIntoView({block: 'nearest'})
    field.setAttribute('aria-activedescendant', option.id)
  }
  const open = (text, ...options) => {
    status.textContent = text
    list.replaceChildren(...options)
    list.hidden = !options.length
    panel.hidden = !text
    list.scrollTop = 0
    field.setAttribute('aria-expanded', options.length > 0)
    choose(-1)
  }
  const close = () => open('')
  const show = async () => {
    let query = field.value.trim()
    if (!query) return close()
    const waiting = setTimeout(open, 200, 'Loading …')
    try { await load() }
    catch { loaded = null; return open('The index cannot be loaded.') }
    finally { clearTimeout(waiting) }
    if (query != field.value.trim()) return // more has been typed since
    let found = siteSearch.find(searchIndex, query), instead = ''
    if (!found.length) {
      query = siteSearch.spelled(searchIndex, query)
      found = siteSearch.find(searchIndex, query)
      instead = ` for “${query}”`
    }
    const count = found.length > MOST ? `The first ${MOST} of ${found.length} results${instead}` : `Results${instead}: ${found.length}`
    const options = found.slice(0, MOST).map((entry, i) => option(entry, i, query))
    open(found.length ? count : 'Nothing has all of these words', ...options)
  }

  // ---- keys, mouse and fingers
  let shown = null
  const move = (from, step) => { // round and round
    const count = list.children.length
    if (count) choose((from+step+count) % count)
    else shown = show()
  }
  const keys = {
    ArrowDown: () => move(chosen, 1),
    ArrowUp: () => move(Math.max(chosen, 0), -1),
    Enter: async () => { await shown; list.children[Math.max(chosen, 0)]?.click() },
    Escape: () => { if (panel.hidden) field.value = ''; close() },
  }
  field.addEventListener('keydown', event => {
    if (!(event.key in keys) || event.isComposing) return
    event.preventDefault()
    keys[event.key]()
  })
  field.addEventListener('focus', () => { load().catch(() => {}); shown = show() })
  field.addEventListener('input', () => shown = show())
  panel.addEventListener('mousedown', event => event.preventDefault()) // the field keeps the focus
  list.addEventListener('click', event => {
    if (!event.ctrlKey && !event.metaKey && !event.shiftKey) field.blur() // else it opens elsewhere, and one goes on here
  })
  box.addEventListener('focusout', event => { if (!box.contains(event.relatedTarget)) close() })
  document.addEventListener('pointerdown', event => { if (!box.contains(event.target)) close() }) // on phones, too
  document.addEventListener('keydown', event => {
    const typing = event.target.closest?.('input, textarea, select, [contenteditable]')
    if (!['/', 's'].includes(event.key) || typing || event.ctrlKey || event.metaKey || event.altKey) return
    event.preventDefault()
    field.focus({preventScroll: true})
    field.select()
  })
  document.querySelector('#quarto-header .navbar-container')?.append(box)
})()
