// What the site's search finds, and in which order. nbs/search.js shows it.
//
// The index is a list of {href, name, also, page, kind, text, code}, which tools/search_index.py makes.
window.siteSearch = (() => {
  // ---- Words. `LRFinder` is also found by its parts, `warm-up` also as `warmup`, `resuming` also as `resume`.
  const WORD = /[\p{L}\p{N}_]+(?:-[\p{L}\p{N}_]+)*/gu
  const partsOf = name => name.match(/\p{Lu}+s?(?!\p{Ll})|\p{Lu}?\p{Ll}+|\p{N}+/gu) ?? [] // LR Finder, GPUs, fp 16
  const once = f => { const known = {__proto__: null}; return word => known[word] ??= f(word) } // most words come often
  const lower = words => words.map(word => word.toLowerCase())
  const waysOf = once(word => [...new Set(lower([word, word.replace(/[_-]/g, ''), ...partsOf(word)]))])
  const stem = once(word => { // `ise` and `ize` are one
    const short = word.replace(/iz/, 'is').replace(/(ations?|(?<=.{4})ions?|at(?:es?|ed|ing)|ing|ed|es|s|e)$/, '')
    return short.length < 3 ? word : short.replace(/(.)\1$/, '$1')
  })
  const FILLING = new Set('a an and are can do does for how i in is it my of on or the to use what when with'.split(' '))
  const telling = words => words.some(word => !FILLING.has(word)) ? words.filter(word => !FILLING.has(word)) : words
  const stemsOf = name => telling(lower((name.match(WORD) ?? []).flatMap(partsOf))).map(stem)

  // What has two names: a query with one of them is tried with the other, too.
  const ALIKE = [['lr', 'learning rate'], ['ddp', 'distributed data parallel'], ['wd', 'weight decay'],
                 ['ema', 'exponential moving average'], ['amp', 'mixed precision'], ['fp16', 'half precision'],
                 ['multi gpu', 'several gpus'], ['finder', 'search']]
  const variants = query => {
    const plain = ` ${(query.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? []).join(' ')} `
    const changed = ALIKE.flatMap(([a, b]) => [plain.replace(` ${a} `, ` ${b} `), plain.replace(` ${b} `, ` ${a} `)])
    return [...new Set([plain, ...changed])].map(text => telling(text.split(' ').filter(Boolean)))
  }

  // ---- Ranks. What counts: where a word stands, how much of the word it is, and what kind of thing has been found.
  const [NAME, PAGE, TEXT, CODE] = [10, 3, 1, .3]
  const [WHOLE, STEM, START, INSIDE] = [1, .9, .2, .002]
  const KINDS = {task: 8, class: 4, page: 3, term: 2, section: 1, function: 1, question: 1, method: 0}

  const closeness = (word, wanted) =>
    word == wanted ? WHOLE : stem(word) == stem(wanted) ? STEM : wanted.length < 2 ? 0 :
    word.startsWith(wanted) ? START : wanted.length > 3 && word.includes(wanted) ? INSIDE : 0

  const prepared = entry => { // with {word: how much it says about this entry}, and the stems of each of its names
    const weights = new Map()
    const add = (text, weight, again = 0) => (text.match(WORD) ?? []).flatMap(waysOf).forEach(word => {
      const now = weights.get(word) // a word that comes again and again counts up to twice as much
      weights.set(word, now == null ? weight : now >= 2*weight ? now : Math.max(now+again, weight))
    })
    add([entry.name, ...entry.also].join(' '), NAME); add(entry.page, PAGE)
    add(entry.text, TEXT, TEXT/10); add(entry.code, CODE, CODE/10)
    return {entry, weights, names: [entry.name, ...entry.also].map(stemsOf)}
  }
  const likeness = (name, wanted) => // 1: the name is what was asked for; less for each word too many or too few
    name.join('') == wanted.join('') ? 1 :
    (2*name.filter(word => wanted.includes(word)).length / (name.length+wanted.length))**2

  const prepare = index => {
    index.prepared ??= index.map(prepared)
    index.words ??= [...new Set(index.prepared.flatMap(({weights}) => [...weights.keys()]))]
  }
  const changes = (a, b, most) => { // how many letters must change to make b of a, or more than `most`
    if (Math.abs(a.length-b.length) > most) return most+1
    let above = [...Array(b.length+1).keys()], before = above
    for (let i = 1; i <= a.length; i++) {
      const row = [i]
      for (let j = 1; j <= b.length; j++) {
        row[j] = Math.min(above[j]+1, row[j-1]+1, above[j-1] + (a[i-1] != b[j-1]))
        if (a[i-1] == b[j-2] && a[i-2] == b[j-1]) row[j] = Math.min(row[j], before[j-2]+1) // two that are swapped
      }
      [before, above] = [above, row]
    }
    return above[b.length]
  }
  const spelled = (index, query) => { // the query with the nearest known word for each that nothing has
    prepare(index)
    return query.toLowerCase().split(/\s+/).map(wanted => {
      if (wanted.length < 5 || index.words.some(word => closeness(word, wanted))) return wanted
      const most = wanted.length > 7 ? 2 : 1
      const near = index.words.map(word => ({word, far: changes(wanted, word, most)})).filter(({far}) => far <= most)
      return near.reduce((best, at) => at.far < best.far ? at : best, {word: wanted, far: most+1}).word
    }).join(' ')
  }
  const find = (index, query) => { // the entries that have all words of the query, best first
    prepare(index)
    const scores = new Map()
    variants(query).filter(wanted => wanted.length).forEach((wanted, variant) => {
      const near = wanted.map(w => index.words.map(word => ({word, close: closeness(word, w)})).filter(at => at.close))
      for (const {entry, weights, names} of index.prepared) {
        const found = near.map(words => Math.max(0, ...words.map(({word, close}) => close*(weights.get(word) ?? 0))))
        if (!found.every(Boolean)) continue
        const like = Math.max(...names.map(name => likeness(name, wanted.flatMap(stemsOf))))
        const score = found.reduce((a, b) => a+b)/found.length + 10*like + KINDS[entry.kind] - (variant && 1)
        scores.set(entry, Math.max(score, scores.get(entry) ?? 0))
      }
    })
    const ordered = [...scores].sort(([, a], [, b]) => b-a).map(([entry]) => entry)
    const places = new Set() // each is named once: a term, a task and a section may lead to the same
    return ordered.filter(({href}) => !places.has(href) && places.add(href))
  }

  // ---- What is shown: a text in pieces, every second of which is marked; of a long one the surroundings of a mark.
  const marked = (text, query, length = 1e9) => {
    const wanted = variants(query).flat()
    const close = word => Math.max(...waysOf(word).flatMap(way => wanted.map(w => closeness(way, w))))
    const hits = [...text.matchAll(WORD)].map(({index: at, 0: word}) => ({at, word, close: close(word)}))
      .filter(hit => hit.close)
    const best = hits.reduce((best, hit) => hit.close > best.close ? hit : best, {at: 0, word: '', close: 0})
    const start = best.at+best.word.length < length ? 0 : text.lastIndexOf(' ', best.at-50) + 1
    const end = start+length < text.length ? text.lastIndexOf(' ', start+length) : text.length
    const pieces = [start ? '… ' : '']
    let done = start
    for (const {at, word} of hits.filter(({at, word}) => at >= start && at+word.length <= end)) {
      pieces[pieces.length-1] += text.slice(done, at)
      pieces.push(word, '')
      done = at+word.length
    }
    pieces[pieces.length-1] += text.slice(done, end) + (end < text.length ? ' …' : '')
    return pieces
  }
  return {prepare, find, marked, spelled}
})()
