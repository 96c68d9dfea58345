"""Twelve things that a visitor wants to know, each found from the overview in two ways, with two clicks: by search
alone, where the first result is right, and by reading alone, over a link of the text and one of its contents."""
import pytest

pytestmark = pytest.mark.site

# What is typed; page and anchor that it leads to; words of the answer there; what a reader clicks on instead
VISITS = {
    'how to accumulate gradients': (
        'accumulate gradients', 'steps.html#gradient-accumulation', 'GradientAccumulation(4)',
        ['Gradient accumulation and clipping', 'Gradient accumulation']),
    'what order means': (
        'order', 'callbacks.html#the-order-of-callbacks', 'order', ['Callbacks', 'The order of callbacks']),
    'how to resume a killed run': (
        'resume', 'checkpoint.html#the-callback', 'Checkpoint(', ['Checkpoints', 'The callback']),
    'how to train on a GPU': (
        'train on a GPU', 'devices.html#training-on-an-accelerator', 'DeviceCallback()',
        ['Devices', 'Training on an accelerator']),
    'how to train on several GPUs': (
        'several GPUs', 'distributed.html#distributed-data-parallel', 'Distributed()',
        ['Distributed training', 'Distributed data parallel']),
    'which learning rate to take': (
        'learning rate finder', 'lr_find.html#the-callback', 'LRFinder', ['Learning-rate search', 'The callback']),
    'how to stop when it gets no better': (
        'early stopping', 'monitor.html#early-stopping', 'patience',
        ['Early stopping and the best model', 'Early stopping']),
    'how to train in half precision': (
        'fp16', 'gpu.html#mixed-precision', 'MixedPrecision', ['Training on a GPU', 'Mixed precision']),
    'how to warm up': (
        'warmup', 'anneal.html#combining-schedules', 'combine_scheds', ['Annealing', 'Combining schedules']),
    "how to use another library's metric": (
        'torchmetrics', 'metrics.html#metrics-that-arent-means-over-batches', 'Metrics',
        ['Metrics', "Metrics that aren’t means over batches"]),
    'which classes are confused': (
        'confusion matrix', 'mistakes.html#confusion-matrix', 'plot_confusion',
        ['Looking at mistakes', 'Confusion matrix']),
    'how to log to TensorBoard': (
        'tensorboard', 'logs.html#tensorboard', 'TensorBoardLogger', ['Logs', 'TensorBoard']),
}

@pytest.fixture(params=VISITS)
def visit(request): return VISITS[request.param]

def assert_answered(tab, href, answer):
    "The section at `href` stands below the header, in the upper half of the window, and has the answer."
    page,_,anchor = href.partition('#')
    tab.wait_for_url(f'**/{page}#{anchor}')
    section = tab.locator(f'[id="{anchor}"]')
    assert answer in section.evaluate('e => (e.closest("section") ?? e).textContent')
    top = section.locator('xpath=descendant-or-self::*[self::h2 or self::h3 or self::h4]').first.bounding_box()['y']
    bar = tab.locator('#quarto-header').bounding_box()
    assert bar['y']+bar['height'] <= top < 450

def test_by_search_alone(tab, visit):
    "Two clicks: the field, the first result."
    typed,href,answer,_ = visit
    tab.goto('/index.html', wait_until='domcontentloaded')
    tab.get_by_role('combobox').click()
    tab.keyboard.type(typed)
    first = tab.get_by_role('option').first
    first.wait_for()
    tab.wait_for_function('() => document.querySelector("[role=status]").textContent.match(/\\d/)')
    first.click()
    assert_answered(tab, href, answer)

def test_by_reading_alone(tab, visit):
    "Two clicks: the page, its section."
    _,href,answer,(page,section) = visit
    tab.goto('/index.html', wait_until='domcontentloaded')
    tab.locator('main table').get_by_role('link', name=page, exact=True).click()
    tab.locator('#TOC').get_by_role('link', name=section, exact=True).click()
    assert_answered(tab, href, answer)
