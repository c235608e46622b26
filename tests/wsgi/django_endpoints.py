"""Django's and Django REST framework's views with `cached`, in a process of their own: settings are one
per process. Run with ``wsgi`` or ``asgi``."""

import asyncio
import functools
import sys
from typing import ClassVar

import django
from django.conf import settings
from django.http import HttpResponse, HttpResponseForbidden
from django.urls import path
from django.utils.decorators import method_decorator

settings.configure(
    SECRET_KEY="for tests",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "rest_framework"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    LOGIN_URL="/login",
)
django.setup()

from django.contrib.auth.decorators import login_required  # noqa: E402
from django.contrib.auth.mixins import LoginRequiredMixin  # noqa: E402
from django.views import View  # noqa: E402
from rest_framework.decorators import api_view, permission_classes  # noqa: E402
from rest_framework.permissions import BasePermission  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402
from rest_framework.viewsets import ViewSet  # noqa: E402

from layergate import Rule, cached  # noqa: E402

policy = cached(ttl=60, tags=["item:{item}"])
CACHED = {}
PRIVATE = {}
SECURED = {}


class Plain(View):
    def get(self, request, item):
        return HttpResponse(f"{item}")


@method_decorator(policy, name="dispatch")
class ByName(Plain):
    pass


@method_decorator(policy, name="get")
class ByGet(Plain):
    pass


@method_decorator([policy], name="dispatch")
class ByList(Plain):
    def dispatch(self, request, *args, **kwargs):
        return super().dispatch(request, *args, **kwargs)


@policy
class Whole(Plain):
    pass


class OnMethod(Plain):
    @policy
    def get(self, request, item):
        return HttpResponse(f"{item}")


class MethodDecorated(Plain):
    @method_decorator(policy)
    def get(self, request, item):
        return HttpResponse(f"{item}")


class DispatchDecorated(Plain):
    @method_decorator(policy)
    def dispatch(self, *args, **kwargs):
        return super().dispatch(*args, **kwargs)


class Async(View):
    async def get(self, request, item):
        return HttpResponse(f"{item}")


@method_decorator(policy, name="dispatch")
class AsyncByName(Async):
    pass


class AsyncOnMethod(Async):
    @policy
    async def get(self, request, item):
        return HttpResponse(f"{item}")


def function(request, item):
    return HttpResponse(f"{item}")


class Callable:
    def __call__(self, request, item):
        return HttpResponse(f"{item}")


def outer(view):
    @functools.wraps(view)
    def wrapper(request, *args, **kwargs):
        return view(request, *args, **kwargs)

    return wrapper


class Api(APIView):
    @policy
    def get(self, request, item):
        return Response({"item": item})


@method_decorator(policy, name="dispatch")
class ApiByName(APIView):
    def get(self, request, item):
        return Response({"item": item})


class Set(ViewSet):
    @policy
    def retrieve(self, request, item):
        return Response({"item": item})


@api_view(["GET"])
@policy
def api_function(request, item):
    return Response({"item": item})


CACHED.update({
    "name=dispatch": ByName.as_view(), "name=get": ByGet.as_view(), "list": ByList.as_view(),
    "class": Whole.as_view(), "method": OnMethod.as_view(), "method_decorator": MethodDecorated.as_view(),
    "dispatch": DispatchDecorated.as_view(), "as_view": policy(Plain.as_view()),
    "async name=dispatch": AsyncByName.as_view(), "async method": AsyncOnMethod.as_view(),
    "async as_view": policy(Async.as_view()), "function": policy(function), "outer": outer(policy(function)),
    "partial": policy(functools.partial(function)), "object": policy(Callable()),
    "api method": Api.as_view(), "api name=dispatch": ApiByName.as_view(),
    "viewset": Set.as_view({"get": "retrieve"}), "api_view": api_function,
    "over api_view": policy(api_view(["GET"])(lambda request, item: Response({"item": item}))),
})  # fmt: skip


def tenant(request):
    return request.headers["x-tenant"]


def calls_a_function(request, item):
    policy(function)(request, item)
    return HttpResponse(tenant(request))


def calls_a_view(request, item):
    ByName.as_view()(request, item=item)
    Whole.as_view()(request, item=item)
    return HttpResponse(tenant(request))


class CallsAView(Plain):
    """Its own dispatch is the very function that the decorated classes' wraps."""

    def get(self, request, item):
        Whole.as_view()(request, item=item)
        ByName.as_view()(request, item=item)
        return HttpResponse(tenant(request))


class Overrides(OnMethod):
    def get(self, request, item):
        super().get(request, item)
        return HttpResponse(tenant(request))


def refuses(view):
    @functools.wraps(view)
    def wrapper(request, *args, **kwargs):
        return HttpResponse("log in, " + tenant(request))

    return wrapper


def asks_itself(request, item):
    from django.test import Client

    return HttpResponse(Client().get("/function/7").content.decode() + tenant(request))


PRIVATE.update({
    "calls a function": calls_a_function, "calls a view": calls_a_view, "calls from a class": CallsAView.as_view(),
    "overrides": Overrides.as_view(), "refused": refuses(policy(function)), "itself": asks_itself,
})  # fmt: skip


class Secret(LoginRequiredMixin, Plain):
    def handle_no_permission(self):
        return HttpResponseForbidden()


class HasKey(BasePermission):
    def has_permission(self, request, view):
        return request.headers.get("x-tenant") == "a"


class Locked(APIView):
    permission_classes: ClassVar = [HasKey]

    def get(self, request, item):
        return Response({"item": item})


class Dynamic(Locked):
    permission_classes: ClassVar = []

    def get_permissions(self):
        return [HasKey()]


@api_view(["GET"])
@permission_classes([HasKey])
def locked_function(request, item):
    return Response({"item": item})


def signed_in(request, item):
    return HttpResponse(f"{item}")


def as_a(view):
    """Signs the tenant a in."""

    @functools.wraps(view)
    def wrapper(request, *args, **kwargs):
        class User:
            is_authenticated = request.headers.get("x-tenant") == "a"

        request.user = User()
        return view(request, *args, **kwargs)

    return wrapper


SECURED.update({
    "login_required": as_a(login_required(signed_in)), "cached": as_a(policy(login_required(signed_in))),
    "mixin": as_a(Secret.as_view()), "dispatch": as_a(method_decorator(login_required, name="dispatch")(type("D", (Plain,), {})).as_view()),
    "permission": Locked.as_view(), "get_permissions": Dynamic.as_view(), "permission of a function": locked_function,
})  # fmt: skip

VIEWS = {**CACHED, **PRIVATE, **{f"secured {name}": view for name, view in SECURED.items()}}
urlpatterns = [path(f"{name}/<int:item>", view) for name, view in VIEWS.items()]


def wsgi(**options):
    from django.core.wsgi import get_wsgi_application

    from layergate.wsgi import LayerGate
    from tests.support.wsgi import ask

    gate = LayerGate(get_wsgi_application(), **options)

    def get(name, tenant):
        answer = ask(gate, f"/{name}/7", HTTP_X_TENANT=tenant)
        return answer.status[:3], answer.body, answer.told

    return get, lambda: gate.purge(tags=["item:7"])


def asgi(**options):
    from django.core.asgi import get_asgi_application

    from tests.support.asgi import World

    world = World(app=get_asgi_application(), **options)

    def get(name, tenant):
        call = asyncio.run(world.get(f"/{name}/7", headers={"x-tenant": tenant}))
        return str(call.status), call.body, call.cache_status

    return get, lambda: asyncio.run(world.cache.purge(tags=["item:7"]))


def check(side):
    get, purge = side()
    for name in CACHED:
        first, second = get(name, "a"), get(name, "b")
        assert first[0] == "200" and "stored" in first[2], (name, first)
        assert second[1] == first[1] and "hit" in second[2], (name, second)
    purge()
    for name in CACHED:
        assert "hit" not in get(name, "a")[2], name
    for name in PRIVATE:
        pages = [get(name, tenant) for tenant in ("a", "b", "b")]
        assert [page[1][-1:] for page in pages] == [b"a", b"b", b"b"], (name, pages)
    get, _ = side(rules=[Rule("/*", ttl=60, allow_cookie=True, allow_authorization=True)])
    for name in SECURED:
        first, second = get(f"secured {name}", "a"), get(f"secured {name}", "b")
        assert first[0] == "200" and "detail=security" in first[2], (name, first)
        assert second[0] in ("302", "401", "403"), (name, second)
    assert "hit" in (get("calls a view", "a") and get("calls a view", "a"))[2]


if __name__ == "__main__":
    check(wsgi if sys.argv[1] == "wsgi" else asgi)
    sys.stdout.write(f"{sys.argv[1]}: fine\n")
