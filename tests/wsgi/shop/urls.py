"""Views that say in each way what may be cached."""

from pathlib import Path

from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.cache import cache_control
from django.views.decorators.csrf import csrf_exempt

from layergate import cached
from shop.models import Product

calls: list[str] = []


@cached(ttl=60, tags=["product:{pk}"])
def product(request, pk):
    calls.append(request.path)
    return JsonResponse({"name": Product.objects.get(pk=pk).name})


@cache_control(max_age=60, public=True)
def index(request):
    calls.append(request.path)
    return HttpResponse("index")


@cache_control(max_age=60, public=True)
def login(request):
    request.session["name"] = "ann"
    return HttpResponse("in")


def me(request):
    return HttpResponse(request.session.get("name", "nobody"))


@cache_control(max_age=60)
def stream(request):
    calls.append(request.path)
    return StreamingHttpResponse(numbers() if hasattr(request, "scope") else map(str, range(5)))


async def numbers():
    for number in range(5):
        yield str(number)


@cache_control(max_age=60)
def file(request):
    calls.append(request.path)
    return FileResponse(Path(__file__).open("rb"))  # (which closes it)


@csrf_exempt
def rename(request, pk):
    Product.objects.filter(pk=pk).update(name=request.POST["name"])
    return HttpResponse(status=204)


urlpatterns = [
    path("", index),
    path("products/<int:pk>", product),
    path("products/<int:pk>/rename", rename),
    path("login", login),
    path("me", me),
    path("stream", stream),
    path("file", file),
]
