"""What is said about each exported name: on the page `Reference`, on the pages of the lessons, and in the comments that
fastcore reads. `make test-site` builds `_docs/` before, and so does `make site`."""
import ast, html, importlib, inspect, json, re
from pathlib import Path

import pytest
from entries import definitions, entries, maker, modules, parameters, patched, public_methods, reference
from fastcore.docments import docments
from nbdev.config import get_config

pytestmark = pytest.mark.site
ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT/'_docs'
MODULES = {name: importlib.import_module(f'lesson9.{name}') for name in modules()}
EXPORTED = {name: list(getattr(module, '__all__', [])) for name,module in MODULES.items()}
every_module = pytest.mark.parametrize('module', [name for name,names in EXPORTED.items() if names])

def page_of(module): return re.sub(r'^\d+[a-z]*_', '', modules()[module][0])
def text_of(page): return html.unescape(re.sub(r'<[^>]+>', '', page))

def read(page):
    assert DOCS.exists(), 'no _docs/: run `make site` first'
    return (DOCS/f'{page}.html').read_text(encoding='utf-8')

def section(page, anchor):
    "A section of a page, up to the next heading."
    body = re.split(rf'<(?:h3|section) id="{re.escape(anchor)}"', read(page), maxsplit=1)[1]
    return re.split(r'<h[1-6]\b', re.split(r'</h\d>', body, maxsplit=1)[1])[0]

def kinds(module, kind):
    "{name: what it is} for the classes or the functions that a module exports"
    found = {name: getattr(MODULES[module], name) for name in EXPORTED[module]}
    return {name: obj for name,obj in found.items() if kind(obj) and name in definitions()}

# ---- the page

ITEM = re.compile(r'<li>(?:<p>)?\s*<a href="([^"]+)"><code>(\w+)</code></a>')

@every_module
def test_every_exported_name_is_in_the_reference_once(module):
    "In the order of `__all__`, in the section of its module, linked to its entry or, for a constant, to its page."
    found = ITEM.findall(section('reference', f'lesson9.{module}'))
    assert [name for _,name in found]==EXPORTED[module]
    for href,name in found:
        page,_,anchor = href.removeprefix('./').partition('#')
        assert page==f'{page_of(module)}.html' and (anchor==name.lower() or name not in definitions()), href

def test_the_reference_has_no_other_names():
    "And no section for a module that exports nothing or isn't there."
    page = read('reference')
    named = [text_of(heading).partition('.')[2] for heading in re.findall(r'<h3[^>]*>(.*?)</h3>', page)]
    assert named==[name for name,names in EXPORTED.items() if names]
    assert len(ITEM.findall(page))==sum(map(len, EXPORTED.values()))>200

@every_module
def test_the_reference_lists_public_methods(module):
    said = text_of(section('reference', f'lesson9.{module}'))
    for name,cls in kinds(module, inspect.isclass).items():
        own = [key for key,value in vars(cls).items() if inspect.isfunction(value) and value.__module__==cls.__module__]
        for method in own: assert method[0]=='_' or re.search(rf'\b{method}\b', said), f'{name}.{method}'

def test_the_saved_list_is_current():
    "The site lists the names anew; readers of the notebook itself see what was saved."
    cells = json.loads((ROOT/'nbs'/'35_reference.ipynb').read_text(encoding='utf-8'))['cells']
    output, = [output for cell in cells for output in cell.get('outputs', [])]
    now = reference(get_config().doc_host + get_config().doc_baseurl)
    assert ''.join(output['data']['text/markdown'])==now, 'run `python tools/lessons.py nbs/35_reference.ipynb`'

def tasks():
    "The rows of the first table, as Markdown."
    cells = json.loads((ROOT/'nbs'/'35_reference.ipynb').read_text(encoding='utf-8'))['cells']
    table = next(''.join(cell['source']) for cell in cells if '| task |' in ''.join(cell['source']))
    return [line.strip('| ').split(' | ') for line in table.splitlines() if line.startswith('|')]

def test_each_task_says_what_to_use_and_where():
    (*columns,),_,*rows = tasks()
    assert columns==['task', 'also called', 'use', 'where'] and len(rows)>=40
    names = {name for exported in EXPORTED.values() for name in exported} | {*definitions()}
    for task,also,use,where in rows:
        assert also, task
        assert use and {*re.findall(r'`([\w.]+)`', use)} <= names and '`' not in re.sub(r'`[\w.]+`', '', use), use
        assert re.fullmatch(r'(\[[^]`]+\]\(\w+\.ipynb#[^)]+\)(, )?)+', where), where # `make site` follows them
    said = [text.strip() for task,also,*_ in rows for text in (task, *also.split(','))]
    twice = {text for text in said if said.count(text)>1}
    assert not twice, twice

# ---- the entries

@every_module
def test_types_are_those_that_are_written(module):
    "fastcore guesses a type from a default, `every:NoneType=None`."
    for name in EXPORTED[module]:
        if name not in definitions(): continue
        obj,shown = getattr(MODULES[module], name),parameters(definitions()[name])
        if inspect.isclass(obj) and not maker(definitions()[name]): continue
        args = ast.parse(f'def f{shown}: pass').body[0].args
        given = [*args.posonlyargs, *args.args, *filter(None, [args.vararg]), *args.kwonlyargs,
                 *filter(None, [args.kwarg])]
        signature = inspect.signature(obj).parameters
        assert [arg.arg for arg in given]==[*signature], name
        typed = [key for key,value in signature.items() if value.annotation is not value.empty]
        assert [arg.arg for arg in given if arg.annotation]==typed, name

def test_no_page_shows_a_guessed_type():
    for path in DOCS.glob('*.html'):
        page = text_of(path.read_text(encoding='utf-8'))
        if path.stem!='jupyter': assert 'NoneType=' not in page, path
        assert not re.search(r'builtin_function_or_method|type=<class', page), path

def is_alone(module, name):
    "Whether the exported cell that defines a name defines no other one that is shown."
    cell = next(cell for cell in re.split(r'^# %% ', modules()[module][2], flags=re.M)
                if re.search(rf'^(class|def) {name}\b', cell, re.M))
    return len(re.findall(r'^(?:class|def) [a-zA-Z]', cell, re.M))==1

@every_module
def test_a_class_is_shown_as_a_class_with_its_methods(module):
    "And its source below, or below the entries of the other names of the same cell."
    for name,cls in kinds(module, inspect.isclass).items():
        entry = text_of(section(page_of(module), name.lower()))
        before,found,source = entry.partition('Exported source')
        for method in public_methods(definitions()[name]): assert re.search(rf'\b{method.name}\b', before), method.name
        if name=='Table': # its source isn't on the page, so its parameters have their comments here
            assert re.search(r'class Table\(\s+rows, +# lists', before)
            continue
        assert f'class {name}{parameters(definitions()[name])}' in re.sub(r'\s+', ' ', before), name
        assert f'def {name}(' not in entry, name
        if is_alone(module, name): assert found and re.search(rf'\s*(@.*\n|def _|class {name}\b)', source), name

@every_module
def test_a_definition_is_shown_once(module):
    "Its source alone, which begins with the signature; a sentence where a cell defines several."
    for name in kinds(module, inspect.isfunction):
        before,found,_ = section(page_of(module), name.lower()).partition('Exported source')
        assert '<pre' not in before and (found or not is_alone(module, name)), name
        assert bool(re.search(r'\w', text_of(re.sub(r'<[^>]*$', '', before)))) != is_alone(module, name), (name, before)

def test_entries_of_a_notebook():
    "A class, a function and a method, twice: a build may find a notebook that has its entries."
    def code(source, *outputs): return dict(cell_type='code', source=source, outputs=outputs)
    def entry(name):
        markdown = f'---\n\n[source](x)\n\n### {name}\n\n```python\ndef {name}(\n```\n*A*'
        return code(f'#| echo: false\nshow_doc({name})', dict(data={'text/markdown': markdown}))
    def source(text): return code('#| code-fold: show\n#| code-summary: "Exported source"\n' + text)
    names = 'GradientClip','collate','Recorder.plot_loss'
    several = entry('amp_dtype'),source('def has_hooks(): pass\ndef amp_dtype(): pass'),entry('has_hooks')
    notebook = dict(cells=[entry('GradientClip'), source('class GradientClip: pass'), entry('collate'),
                           source('def collate(): pass'), entry('Recorder.plot_loss'), *several])
    for _ in range(2):
        entries(notebook)
        texts = [cell['outputs'][0]['data']['text/markdown'] for cell in notebook['cells'] if cell['outputs']]
        for name,text in zip(names, texts): assert text.startswith(f'---\n\n[source](x)\n\n### {name}\n'), text
        said = [text.partition('### ')[2].partition('\n')[2].strip() for text in texts]
        (cls,function),(method,*others) = said[:2],said[2:]
        made,sentence,*heard = cls.split('\n\n')
        assert made=='```python\nclass GradientClip(norm=None, value=None)\n```' and sentence.startswith('Limit'), cls
        assert heard==['- Called at `after_backward`'], cls
        assert function=='' and method.startswith('```python\nRecorder.plot_loss(skip_last=0)\n```\n\nDraw'), method
        assert ['### has_hooks' in texts[3], '### amp_dtype' in texts[4], *map(bool, others)]==[True]*4
        order = [bool(cell['outputs']) for cell in notebook['cells']]
        assert order==[True, False, True, False, True, True, True, False]

# ---- what comes back

RETURNS = re.compile(r'\)\s*(?:->.*?)?:\s*# (?!type: ignore)(.+)')

@every_module
def test_the_comment_behind_a_signature_is_known(module):
    "fastcore takes it as what comes back only with a return annotation; without one, neither site nor help show it."
    lines = modules()[module][2].splitlines()
    for name,node in definitions().items():
        if node not in modules()[module][1].body or isinstance(node, ast.ClassDef): continue
        if name not in EXPORTED[module] and not patched(node): continue
        signature = lines[node.lineno-1:node.body[0].lineno-1] or [lines[node.lineno-1]]
        comment = RETURNS.search(signature[-1])
        if not comment: continue
        owner = getattr(MODULES[module], node.args.args[0].annotation.id) if patched(node) else MODULES[module]
        obj = getattr(owner, node.name)
        known = docments(inspect.unwrap(obj))
        assert comment[1] in known.values(), (name, comment[1])
        is_of_parameter = node.returns is None and len(known)==2 # on one line, with its only parameter
        assert known['return']==comment[1] or is_of_parameter, (name, known)
