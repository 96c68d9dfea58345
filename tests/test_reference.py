"""What is said about each exported name: on the page `Reference`, on the pages of the lessons, and in the comments that
fastcore reads. `make test` has built `_docs/`; without it, build it with `make site`."""
import ast, html, importlib, inspect, json, re
from pathlib import Path

import pytest
from entries import definitions, entries, modules, parameters, patched, public_methods
from fastcore.docments import docments

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
    body = read(page).split(f'id="{anchor}"', 1)[1]
    return re.split(r'<h[1-6]\b', body.split('</h', 1)[1])[0]

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
    named = re.findall(r'<h3[^>]*>lesson9\.(\w+)</h3>', page)
    assert named==[name for name,names in EXPORTED.items() if names]
    assert len(ITEM.findall(page))==sum(map(len, EXPORTED.values()))>200

@every_module
def test_the_reference_lists_public_methods(module):
    said = text_of(section('reference', f'lesson9.{module}'))
    for name,cls in kinds(module, inspect.isclass).items():
        for method in vars(cls):
            if method[0]!='_' and inspect.isfunction(vars(cls)[method]) and vars(cls)[method].__module__==cls.__module__:
                assert re.search(rf'\b{method}\b', said), f'{name}.{method}'

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
        assert use and {*re.findall(r'`([\w.]+)`', use)} <= names and re.sub(r'`[\w.]+`|, ', '', use)=='', use
        assert re.fullmatch(r'(\[[^]`]+\]\(\w+\.ipynb#[^)]+\)(, )?)+', where), where # that they lead somewhere is checked
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
        if inspect.isclass(obj) and obj.__init__ is object.__init__: continue
        args = ast.parse(f'def f{shown}: pass').body[0].args
        typed = {arg.arg for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs] if arg.annotation}
        named = {arg.arg for arg in [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg] if arg}
        signature = inspect.signature(obj).parameters if not issubclass_of_exception(obj) else {}
        assert named==signature.keys(), name
        assert typed=={key for key,value in signature.items() if value.annotation is not value.empty}, name

def issubclass_of_exception(obj): return inspect.isclass(obj) and issubclass(obj, Exception)

def test_no_page_shows_a_guessed_type():
    for path in DOCS.glob('*.html'):
        page = text_of(path.read_text(encoding='utf-8'))
        if path.stem!='jupyter': assert 'NoneType=' not in page, path
        assert not re.search(r'builtin_function_or_method|type=<class', page), path

@every_module
def test_a_class_is_shown_as_a_class_with_its_methods(module):
    for name,cls in kinds(module, inspect.isclass).items():
        entry = text_of(section(page_of(module), name.lower()))
        before,_,source = entry.partition('Exported source')
        assert f'class {name}{parameters(definitions()[name])}' in re.sub(r'\s+', ' ', before), name
        assert f'class {name}' in source and f'def {name}(' not in entry, name
        for method in public_methods(definitions()[name]): assert re.search(rf'\b{method.name}\b', before), method.name

@every_module
def test_a_definition_is_shown_once(module):
    "Nothing but its source, which begins with the signature."
    for name in kinds(module, inspect.isfunction):
        before,found,source = section(page_of(module), name.lower()).partition('Exported source')
        page = text_of(read(page_of(module)))
        if found: assert text_of(before).strip('> \n')=='' and '<pre' not in before, (name, before)
        assert len(re.findall(rf'^def {name}\(', page, re.M))>=1, name

def test_entries_of_a_notebook():
    "A class, a function and a method, twice: a build may find a notebook that has its entries."
    def shown(name, *outputs): return dict(cell_type='code', source=f'#| echo: false\nshow_doc({name})', outputs=outputs)
    def made(name): return dict(data={'text/markdown': f'---\n\n[source](x)\n\n### {name}\n\n```python\ndef {name}(\n```\n*A*'})
    names = 'GradientClip','collate','Recorder.plot_loss'
    notebook = dict(cells=[shown(name, made(name)) for name in names])
    for _ in range(2):
        entries(notebook)
        texts = [cell['outputs'][0]['data']['text/markdown'] for cell in notebook['cells']]
        for name,text in zip(names, texts): assert text.startswith(f'---\n\n[source](x)\n\n### {name}\n'), text
        cls,function,method = [text.partition('### ')[2].partition('\n')[2].strip() for text in texts]
        assert cls=='```python\nclass GradientClip(norm=None, value=None)\n```\n\n- Called at `after_backward`', cls
        assert function=='' and method.startswith('```python\nRecorder.plot_loss(skip_last=0)\n```\n\nDraw'), (function, method)

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
        obj = getattr(MODULES[module], name) if '.' not in name else getattr(MODULES['callbacks'].Runner, name.split('.')[1])
        known = docments(inspect.unwrap(obj))
        assert comment[1] in known.values(), (name, comment[1])
        assert known['return']==comment[1] or node.returns is None and len(known)==2, (name, known) # of its one parameter
