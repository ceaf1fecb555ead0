{{/* The release's name, with "cloakroom" in it. */}}
{{- define "cloakroom.name" -}}
{{- if contains "cloakroom" .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-cloakroom" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* By what Service, Deployment and policies know the pods. */}}
{{- define "cloakroom.selector" -}}
app.kubernetes.io/name: cloakroom
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "cloakroom.metadata" -}}
name: {{ include "cloakroom.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "cloakroom.selector" . | nindent 2 }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What takes a restart: everything else is reloaded when the file changes. */}}
{{- define "cloakroom.restart" -}}
{{- $c := .Values.config }}
{{- list $c.listen (dig "admin" "listen" "" $c) (dig "redis" "mode" "single" $c) (dig "redis" "addresses" "" $c) (dig "redis" "key_prefix" "" $c) | toJson | sha256sum }}
{{- end }}

{{/* The configuration's secrets, a JSON list of [key, value]. */}}
{{- define "cloakroom.secrets" -}}
{{- $c := .Values.config }}
{{- $s := list (list "redis.password" (dig "redis" "password" "" $c)) (list "redis.sentinel.password" (dig "redis" "sentinel" "password" "" $c)) (list "admin.token" (dig "admin" "token" "" $c)) }}
{{- range $n, $key := $c.keys }}
{{- $s = append $s (list (printf "keys[%d]" $n) $key) }}
{{- end }}
{{- range $n, $app := $c.apps }}
{{- $at := printf "apps[%d]" $n }}
{{- $s = append $s (list (print $at ".provider.client_secret") (dig "provider" "client_secret" "" $app)) }}
{{- $s = append $s (list (print $at ".forward_auth.secret") (dig "forward_auth" "secret" "" $app)) }}
{{- $s = append $s (list (print $at ".token.pairwise_key") (dig "token" "pairwise_key" "" $app)) }}
{{- range $m, $key := dig "token" "signing_keys" (list) $app }}
{{- $s = append $s (list (printf "%s.token.signing_keys[%d]" $at $m) $key) }}
{{- end }}
{{- end }}
{{- toJson $s }}
{{- end }}

{{/* A duration as the configuration has it, in whole seconds. */}}
{{- define "cloakroom.seconds" -}}
{{- $s := 0.0 }}
{{- range regexFindAll `[0-9.]+(ms|h|m|s)` . -1 }}
{{- $unit := index (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0) (regexFind `[a-z]+$` .) }}
{{- $s = addf $s (mulf (regexFind `^[0-9.]+` . | float64) $unit) }}
{{- end }}
{{- ceil $s | int }}
{{- end }}

{{/* All that is missing or can't work, a line each. */}}
{{- define "cloakroom.problems" -}}
{{- $v := .Values }}
{{- $p := list }}
{{- $theirs := or $v.configFrom.configMap $v.configFrom.secret }}
{{- if not $v.image }}
{{- $p = append $p "image: name the image, best by digest" }}
{{- end }}
{{- if and $v.configFrom.configMap $v.configFrom.secret }}
{{- $p = append $p "configFrom: name a configMap or a secret, not both" }}
{{- end }}
{{- if and $theirs $v.config.apps }}
{{- $p = append $p "config.apps: the configuration is configFrom's: give one of the two" }}
{{- end }}
{{- if not $theirs }}
{{- if not $v.config.apps }}
{{- $p = append $p "config.apps: give at least one app (docs/configuration.md), or name your own configuration in configFrom" }}
{{- end }}
{{- if not (dig "redis" "addresses" "" $v.config) }}
{{- $p = append $p "config.redis.addresses: say where Redis is" }}
{{- end }}
{{- if not (has (default ":8080" $v.config.listen) (list ":8080" "0.0.0.0:8080" "[::]:8080")) }}
{{- $p = append $p "config.listen: has to be :8080, where the Service sends to" }}
{{- end }}
{{- if not (has (dig "admin" "listen" "" $v.config) (list ":9090" "0.0.0.0:9090" "[::]:9090")) }}
{{- $p = append $p "config.admin.listen: has to be :9090, where the kubelet asks for the pod's health" }}
{{- end }}
{{- $delay := include "cloakroom.seconds" (dig "drain" "delay" "0s" $v.config | toString) | int }}
{{- $timeout := include "cloakroom.seconds" (dig "drain" "timeout" "30s" $v.config | toString) | int }}
{{- if lt (int $v.terminationGracePeriodSeconds) (add $delay $timeout 10 | int) }}
{{- $p = append $p (printf "terminationGracePeriodSeconds: has to be %d at least: drain.delay, drain.timeout and the 10s that refreshes get" (add $delay $timeout 10)) }}
{{- end }}
{{- if not $v.secret }}
{{- $p = append $p "secret: name the Secret with the server key, the admin token and what else config names" }}
{{- end }}
{{- range include "cloakroom.secrets" . | fromJsonArray }}
{{- $value := index . 1 | toString }}
{{- if and $value (not (regexMatch `^\$\{(file|env):[^}]+\}$` $value)) }}
{{- $p = append $p (printf "config.%s: give it as ${file:…} or ${env:…}: a ConfigMap and the release's values are no place for a secret" (index . 0)) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $v.volumeMounts }}
{{- if or .subPath .subPathExpr }}
{{- $p = append $p (printf "volumeMounts: %s has a subPath, and would follow no change" .name) }}
{{- end }}
{{- end }}
{{- if $v.networkPolicy.enabled }}
{{- if not $v.networkPolicy.http }}
{{- $p = append $p "networkPolicy.http: say who may reach the public port, or set networkPolicy.enabled to false" }}
{{- end }}
{{- if not $v.networkPolicy.egress }}
{{- $p = append $p "networkPolicy.egress: say where Redis, the upstreams and the provider are, or set networkPolicy.enabled to false" }}
{{- end }}
{{- end }}
{{- if and $v.ingress.enabled (not (include "cloakroom.hosts" . | fromJsonArray)) }}
{{- $p = append $p "ingress.hosts: name the apps' hosts" }}
{{- end }}
{{- join "\n" $p }}
{{- end }}

{{/* The Ingress's hosts, a JSON list. */}}
{{- define "cloakroom.hosts" -}}
{{- $hosts := .Values.ingress.hosts }}
{{- if not $hosts }}
{{- range .Values.config.apps }}
{{- with .origin }}{{ $hosts = append $hosts (urlParse . | dig "hostname" "") }}{{ end }}
{{- end }}
{{- end }}
{{- toJson $hosts }}
{{- end }}
